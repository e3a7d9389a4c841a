# SPDX-License-Identifier: Apache-2.0
"""A program that may publish commands, but lacks the site's key, takes nothing from those who have it.

Nor does an operator who has it and whose clock is wrong.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from joserfc.jwk import ECKey

from agent.cli import main
from agent.clock import SimulatedClock
from agent.keys import PublicKey, SigningKey, UnitKey, encode_base64url
from agent.protocol.command import SIGNATURE_TYPE
from agent.uplink.commands import BURST, CHECKS_BURST, LAST_NUMBER, CommandCounter, Commands, Outcome
from tests.simulators.answering import answers, outcome_of
from tests.simulators.broker import RealBroker, connect
from tests.simulators.desk import Desk, read_command
from tests.simulators.unit_on_broker import SkippingClock

KEY, THIEF, UNIT_KEY = SigningKey.generate(), SigningKey.generate(), UnitKey.generate()
YEAR_S = 365 * 86_400


class Unit:
    """The command side of ``door-1``."""

    def __init__(
        self,
        folder: Path,
        clock: Any,
        key: SigningKey = KEY,
        unit_key: UnitKey = UNIT_KEY,
        known: PublicKey | None = None,
    ) -> None:
        self.clock, self.key = clock, key
        self.outcomes: list[Outcome] = []
        self.answers = answers(unit_key)
        self.commands = Commands(
            site="hq",
            unit="door-1",
            key=known or key.public,
            counter=CommandCounter(folder / "commands.json"),
            answers=self.answers,
            clock=clock,
            random=lambda n: b"\x07" * n,
            on_outcome=self.outcomes.append,
        )
        begun = {"enrolment": "t", "state": "capturing", "captured": 0, "wanted": 5}
        self.commands.bind({"selftest": lambda _: {}, "enrol/begin": lambda _: begun})

    def command(self, seq: int | None = None, at_s: float = 0, **changes: Any) -> bytes:
        """A command as an operator whose clock is ``at_s`` ahead signs it."""
        now = self.clock.now().timestamp() + at_s
        members = {
            "site": "hq",
            "unit": "door-1",
            "verb": "selftest",
            "cmd_seq": int(now * 1000) if seq is None else seq,
            "issued_at": int(now),
            "expires_at": int(now) + 60,
            "transaction": "t-1",
            "args": {},
        }
        return self.key.sign(msgspec.json.encode(members | changes), typ=SIGNATURE_TYPE).encode()

    def ask(self, payload: bytes) -> dict[str, Any] | None:
        answer = self.commands.handle("selftest", payload)
        return None if answer is None else outcome_of(answer, UNIT_KEY)


def lent(unit: Unit) -> bytes:
    """A command that claims the site's key: its signature has to be checked before it is refused."""
    head = encode_base64url(msgspec.json.encode({"alg": "ES256", "kid": KEY.kid, "typ": SIGNATURE_TYPE}))
    return f"{head}.{unit.command().decode().split('.')[1]}.{encode_base64url(bytes(range(64)))}".encode()


FLOODS: dict[str, Callable[[Unit], bytes]] = {
    "garbage": lambda unit: b"x",
    "too large": lambda unit: b"x" * 20_000,
    "unsigned commands": lambda unit: unit.command().rpartition(b".")[0] + b".",
    "another key's commands": lambda unit: THIEF.sign(b"{}", typ=SIGNATURE_TYPE).encode(),
    "forged signatures": lent,
}


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path, SimulatedClock())


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_of_what_nobody_signed_starves_no_command(unit: Unit, flood: str) -> None:
    unit.clock.advance(86_400)  # a day without a command saves nothing up
    payload = FLOODS[flood](unit)
    # Of what claims the site's key each needs a check, and so many are let through a second; the rest needs none.
    many = 10 * BURST if flood in ("forged signatures", "unsigned commands") else CHECKS_BURST + BURST
    said = [unit.ask(payload) for _ in range(many)]
    assert sum(answer is not None for answer in said) == BURST, "and the flood itself gets silence"
    now_ms = int(unit.clock.now().timestamp() * 1000)
    done = [unit.ask(unit.command(now_ms + n)) for n in range(BURST)]
    assert all(answer is not None and answer["status"] == "ok" for answer in done)


def test_recorded_command_sent_again_and_again_starves_no_command(unit: Unit) -> None:
    recorded = unit.command()
    said = [unit.ask(recorded) for _ in range(10 * BURST)]
    assert sum(answer is not None for answer in said) == BURST + 1
    answer = unit.ask(unit.command(at_s=1))
    assert answer is not None
    assert answer["status"] == "ok"


class CountingKey(PublicKey):
    """The site's key as the unit has it, and what it was asked to check."""

    def __init__(self, key: ECKey) -> None:
        super().__init__(key)
        self.checked: list[str] = []

    def verify(self, token: str, *, typ: str) -> bytes:
        self.checked.append(token)
        return super().verify(token, typ=typ)


def test_flood_of_forged_signatures_eats_no_more_than_a_bounded_number_of_checks(tmp_path: Path) -> None:
    known = CountingKey.from_jwk(KEY.public_jwk())
    unit = Unit(tmp_path, SimulatedClock(), known=known)
    payload = lent(unit)
    for _ in range(CHECKS_BURST + 100):
        unit.ask(payload)
    assert len(known.checked) == CHECKS_BURST
    unit.clock.advance(0.1)
    answer = unit.ask(unit.command())
    assert answer is not None, "a tenth of a second later commands are heard again"
    assert answer["status"] == "ok"


@pytest.fixture
def desk(tmp_path: Path, broker: RealBroker) -> Iterator[Desk]:
    made = Desk(tmp_path, broker)
    yield made
    made.stop()


@pytest.mark.broker
def test_program_without_the_sites_key_ends_nobody_elses_enrolment(
    desk: Desk, tmp_path: Path, broker: RealBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    """It makes the unit refuse garbage while an operator waits for what an enrolment comes to."""
    unit = Unit(tmp_path, SkippingClock(), desk.site_key, desk.keys["door-1"])
    listed = broker.acl.read_text()
    of_operators = listed[listed.index("user operator") :].split("user ")[1]
    broker.acl.write_text(f"{listed}\nuser {of_operators.replace('operator', 'vandal', 1)}")
    broker.reload()
    vandal = connect(broker, broker.authority.issue("vandal"), "vandal")
    begun: list[str] = []

    def handle(verb: str, payload: bytes) -> bytes | None:
        answer = unit.commands.handle(verb, payload)
        if payload != b"garbage":
            begun.append(read_command(payload)["transaction"])
            vandal.connection.publish("postern/hq/door-1/request/enrol/begin", b"garbage")
            vandal.acks(1)
        else:  # its refusal goes out before this
            report = unit.answers.report(begun[0], {"state": "complete", "captured": 5, "wanted": 5}, None)
            assert report is not None
            started.mailbox.report(*report)
        return answer

    started = desk.start("door-1", handle)
    assert main(["ask", "door-1", "enrol/begin", *desk.words, "--timeout", "20"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "complete"
    assert [outcome.error for outcome in unit.outcomes] == [None, "malformed"]


def test_clock_a_year_ahead_is_refused_with_the_number_that_would_be_taken(unit: Unit) -> None:
    now_ms = int(unit.clock.now().timestamp() * 1000)
    answer = unit.ask(unit.command(now_ms + YEAR_S * 1000))
    assert answer is not None
    assert (answer["error"], answer["next_seq"]) == ("number_ahead", 1)
    assert f"from 1 to {now_ms + 30_000}" in answer["message"]
    answer = unit.ask(unit.command())
    assert answer is not None
    assert answer["status"] == "ok", "nobody is locked out"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(ahead_ms=st.integers(-(10**12), 2**53 - 1), taken=st.integers(1, 2**53 - 1))
def test_no_number_that_is_taken_keeps_the_next_operator_out(tmp_path: Path, ahead_ms: int, taken: int) -> None:
    """Whatever number comes, and whatever the counter held: a refusal names one that is taken, if there is one."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (folder / "commands.json").write_text(json.dumps({"cmd_seq": taken, "recent": [taken]}))
    unit = Unit(folder, SimulatedClock())
    now_ms = int(unit.clock.now().timestamp() * 1000)
    unit.ask(unit.command(max(1, min(now_ms + ahead_ms, 2**53 - 1))))
    answer = unit.ask(unit.command(now_ms, transaction="t-2"))
    assert answer is not None
    if answer["status"] == "error" and "next_seq" in answer:
        answer = unit.ask(unit.command(answer["next_seq"], transaction="t-3"))
    if taken < LAST_NUMBER and taken != now_ms:
        assert answer is not None
        assert answer["status"] == "ok" or (answer["error"] == "replayed" and ahead_ms == 0)


@pytest.mark.broker
def test_number_a_year_ahead_that_a_unit_without_the_time_took_locks_no_operator_out(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SkippingClock("unsynced")
    unit = Unit(tmp_path, clock, desk.site_key, desk.keys["door-1"])
    ahead = int((clock.now().timestamp() + YEAR_S) * 1000)
    assert unit.commands.handle("selftest", unit.command(ahead))
    assert unit.commands.handle("selftest", unit.command(ahead, nonce="07" * 16))
    assert unit.outcomes[-1].error is None
    clock._state = "synced"
    desk.start("door-1", unit.commands.handle)
    assert main(["ask", "door-1", "selftest", *desk.words, "--timeout", "20"]) == 0
    assert json.loads(capsys.readouterr().out) == {}
    assert [outcome.error for outcome in unit.outcomes] == ["challenge", None, "out_of_order", None]
