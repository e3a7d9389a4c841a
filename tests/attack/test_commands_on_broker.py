# SPDX-License-Identifier: Apache-2.0
"""The table of attacks on commands, through a real Mosquitto: each is refused with its own reason, and does nothing.

The attacker holds an operator's certificate, so the broker lets everything through; only the site's key is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import ClockState
from agent.keys import SigningKey, UnitKey, encode_base64url
from agent.protocol.command import MAX_COMMAND_BYTES, SIGNATURE_TYPE, VERBS
from agent.uplink.commands import CommandCounter, Commands, Outcome
from tests.simulators.answering import answers, outcome_of
from tests.simulators.broker import Listener, RealBroker, connect, wait_until
from tests.simulators.unit_on_broker import SkippingClock, UnitOnBroker

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]  # seconds on a machine that is not busy

KEY, UNIT_KEY = SigningKey.generate(), UnitKey.generate()
THIEF = SigningKey.generate()


class Attacked:
    """A unit that would do what it is told, and the attacker's connection."""

    def __init__(self, folder: Path, broker: RealBroker, name: str = "door-1", state: ClockState = "synced") -> None:
        self.broker, self.name, self.base = broker, name, f"postern/hq/{name}"
        self.clock = SkippingClock(state)
        self.done: list[str] = []
        self.outcomes: list[Outcome] = []
        self.counter = CommandCounter(folder / "commands.json")

        def do(verb: str) -> Callable[[Any], dict[str, str]]:
            return lambda _: self.done.append(verb) or {"did": verb}  # type: ignore[func-returns-value]

        commands = Commands(
            site="hq",
            unit=name,
            key=KEY.public,
            counter=self.counter,
            answers=answers(UNIT_KEY, name),
            clock=self.clock,
            random=lambda n: b"\x07" * n,
            on_outcome=self.outcomes.append,
        )
        commands.bind({verb: do(verb) for verb in VERBS})
        settings = broker.settings(broker.authority.issue(name))
        self.unit = UnitOnBroker(folder, settings, name, clock=self.clock, on_request=commands.handle)
        self.attacker: Listener = connect(
            broker, broker.authority.issue("operator"), "operator", f"{self.base}/response/#"
        )

    def command(self, **changes: Any) -> dict[str, Any]:
        now = int(self.clock.now().timestamp())
        command = {
            "site": "hq",
            "unit": self.name,
            "verb": "selftest",
            "cmd_seq": self.counter.last + 1,
            "issued_at": now,
            "expires_at": now + 60,
            "transaction": "t-1",
            "args": {},
        }
        return command | changes

    def deliver(self, payload: bytes, *, verb: str = "selftest") -> dict[str, Any]:
        """Publish a payload as the attacker, and return what the unit says to it."""
        self.clock.skipped_s += 1  # the limit on floods stays out of the way
        self.attacker.messages.clear()
        self.attacker.connection.publish(f"{self.base}/request/{verb}", payload)
        self.attacker.pump(lambda: self.attacker.messages, 60)
        (message,) = self.attacker.messages
        assert message.topic == f"{self.base}/response/{verb}"
        return outcome_of(message.payload, UNIT_KEY)

    def stop(self) -> None:
        self.attacker.connection.close()
        self.unit.uplink.stop()


@pytest.fixture(scope="module")
def attacked(broker: RealBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    made = Attacked(tmp_path_factory.mktemp("attacked"), broker)
    made.unit.start()
    yield made
    made.stop()


def sign(command: Any, key: SigningKey = KEY, typ: str = SIGNATURE_TYPE) -> bytes:
    return key.sign(msgspec.json.encode(command), typ=typ).encode()


def with_header(token: bytes, **members: object) -> bytes:
    """The signed command under another protected header."""
    header = {"alg": "ES256", "kid": KEY.kid, "typ": SIGNATURE_TYPE} | members
    _, content, signature = token.decode().split(".")
    return f"{encode_base64url(json.dumps(header).encode())}.{content}.{signature}".encode()


def with_content(token: bytes, command: dict[str, Any]) -> bytes:
    header, _, signature = token.decode().split(".")
    return f"{header}.{encode_base64url(json.dumps(command).encode())}.{signature}".encode()


Attack = Callable[[Attacked], bytes]
ATTACKS: dict[str, tuple[Attack, str]] = {
    "for another unit": (lambda a: sign(a.command(unit="door-2")), "wrong_unit"),
    "for another site": (lambda a: sign(a.command(site="annex")), "wrong_site"),
    "for another verb's topic": (lambda a: sign(a.command(verb="health")), "wrong_verb"),
    "wrong typ": (lambda a: sign(a.command(), typ="postern-policy+jws"), "wrong_type"),
    "typ renamed afterwards": (lambda a: with_header(sign(a.command()), typ="JWT"), "wrong_type"),
    "none alg": (lambda a: with_header(sign(a.command()), alg="none"), "unsecured"),
    "HMAC with the public key": (lambda a: with_header(sign(a.command()), alg="HS256"), "wrong_algorithm"),
    "another kid": (lambda a: with_header(sign(a.command()), kid=THIEF.kid), "wrong_key"),
    "another key": (lambda a: sign(a.command(), THIEF), "wrong_key"),
    "another key under this kid": (lambda a: with_header(sign(a.command(), THIEF)), "bad_signature"),
    "own key in the header": (lambda a: with_header(sign(a.command(), THIEF), jwk=THIEF.public_jwk()), "malformed"),
    "stripped signature": (lambda a: sign(a.command()).rpartition(b".")[0] + b".", "unsigned"),
    "no signature at all": (lambda a: msgspec.json.encode(a.command()), "malformed"),
    "content exchanged": (lambda a: with_content(sign(a.command()), a.command(args={"n": 1})), "bad_signature"),
    "from the future": (
        lambda a: sign(a.command(issued_at=a.command()["issued_at"] + 90, expires_at=a.command()["issued_at"] + 150)),
        "not_yet_valid",
    ),
    "expired": (
        lambda a: sign(a.command(issued_at=a.command()["issued_at"] - 120, expires_at=a.command()["issued_at"] - 60)),
        "expired",
    ),
    "valid for a year": (lambda a: sign(a.command(expires_at=a.command()["issued_at"] + 31_536_000)), "too_long_valid"),
    "made-up nonce": (lambda a: sign(a.command(nonce="0" * 32)), "bad_nonce"),
    "too large": (lambda a: sign(a.command(args={"x": "y" * MAX_COMMAND_BYTES})), "too_large"),
    "a score among the arguments": (lambda a: sign(a.command(args={"score": 0.5})), "malformed"),
}


# Kinds of attack that an auditor tells apart by their reasons alone.
KINDS = (
    "for another unit",
    "for another site",
    "for another verb's topic",
    "wrong typ",
    "none alg",
    "HMAC with the public key",
    "another kid",
    "stripped signature",
    "another key under this kid",
    "from the future",
    "expired",
    "valid for a year",
    "made-up nonce",
    "too large",
    "no signature at all",
)


def test_no_two_kinds_of_attack_share_a_reason() -> None:
    reasons = [ATTACKS[kind][1] for kind in KINDS]
    assert len({*reasons, "replayed", "out_of_order"}) == len(KINDS) + 2


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_with_its_own_reason_and_does_nothing(attacked: Attacked, attack: str) -> None:
    make, reason = ATTACKS[attack]
    number, done = attacked.counter.last, len(attacked.done)
    answer = attacked.deliver(make(attacked))
    assert (answer["status"], answer["error"]) == ("error", reason)
    assert (attacked.counter.last, len(attacked.done)) == (number, done)
    assert attacked.outcomes[-1].error == reason


def test_replayed_and_reordered_commands_are_refused_each_with_its_own_reason(attacked: Attacked) -> None:
    first = attacked.counter.last + 1
    before, early, late = (sign(attacked.command(cmd_seq=first + n)) for n in range(3))
    for command in (before, late):
        assert attacked.deliver(command)["status"] == "ok"
    done = len(attacked.done)
    assert attacked.deliver(before)["error"] == "replayed", "sent again"
    assert attacked.deliver(late)["error"] == "replayed", "sent again"
    assert attacked.deliver(early)["error"] == "out_of_order", "held back and sent after the one that followed it"
    assert len(attacked.done) == done


def test_command_that_the_broker_retains_is_never_obeyed(broker: RealBroker, tmp_path: Path) -> None:
    attacked = Attacked(tmp_path, broker, "door-2")
    client = attacked.attacker.connection
    client.publish(f"{attacked.base}/request/selftest", sign(attacked.command()), retain=True)
    wait_until(lambda: client.poll(0.02).acks, 60)
    attacked.unit.start()  # and gets the old message with its subscription
    assert attacked.deliver(sign(attacked.command(verb="health")), verb="health")["status"] == "ok"
    assert attacked.done == ["health"]
    client.publish(f"{attacked.base}/request/selftest", b"", retain=True)
    attacked.stop()


def test_unit_that_does_not_know_the_time_asks_for_a_fresh_signature_once(broker: RealBroker, tmp_path: Path) -> None:
    attacked = Attacked(tmp_path, broker, "door-3", "unsynced")
    attacked.unit.start()
    command = attacked.command(issued_at=0, expires_at=60)
    challenge = attacked.deliver(sign(command))
    assert challenge["error"] == "challenge"
    assert attacked.done == []
    assert attacked.deliver(sign(command | {"nonce": challenge["nonce"]}))["status"] == "ok"
    again = sign(attacked.command(nonce=challenge["nonce"]))
    assert attacked.deliver(again)["error"] == "bad_nonce", "a nonce is good for one command"
    attacked.stop()
