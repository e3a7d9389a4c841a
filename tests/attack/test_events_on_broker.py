# SPDX-License-Identifier: Apache-2.0
"""The table of attacks on events, through a real Mosquitto: the attacker has a unit's certificate, no event key."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import rfc8785

from agent.keys import SigningKey, UnitKey, encode_base64url
from agent.protocol.event import SIGNATURE_TYPE
from agent.subscribe.files import TrustFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.broker import RealBroker, connect
from tests.simulators.signing_unit import DIGEST, SigningUnit, trust_list
from tests.simulators.unit_on_broker import SkippingClock
from tests.unit.test_uplink_subscribe import take

pytestmark = [pytest.mark.broker, pytest.mark.timeout(180)]  # seconds on a machine that is not busy

Outcome = VerifiedEvent | Refusal


class Site:
    """Units door-1 and door-2 without cameras, a thief with door-1's certificate, and a subscriber for each test."""

    def __init__(self, folder: Path, broker: RealBroker) -> None:
        self.broker, self.clock = broker, SkippingClock()
        self.units = {name: SigningUnit(folder / f"{name}.db", name, self.clock) for name in ("door-1", "door-2")}  # type: ignore[arg-type]
        self.unit = self.units["door-1"]
        key = SigningKey.generate()
        path = folder / "trust.jws"
        path.write_text(trust_list(*self.units.values()).sign(key))
        self._trust = TrustFile(path, key.public)
        self._issued = {name: broker.authority.issue(name) for name in ("door-1", "auditor")}

    def send(self, *messages: tuple[str, bytes]) -> list[Outcome]:
        """Publish (leaf, payload) as door-1; what a subscriber makes of them."""
        settings = self.broker.settings(self._issued["auditor"])
        with Subscriber(settings, site="hq", trust=self._trust, clock=self.clock) as subscriber:  # type: ignore[arg-type]
            thief = connect(self.broker, self._issued["door-1"], "door-1")
            for leaf, payload in messages:
                thief.connection.publish(f"postern/hq/door-1/{leaf}", payload)
            thief.acks(len(messages), 60)
            outcomes = take(subscriber, len(messages))
            thief.connection.close()
            return outcomes

    def say(self, name: str = "door-1") -> bytes:
        return self.units[name].say().payload


@pytest.fixture
def site(tmp_path: Path, broker: RealBroker) -> Site:
    return Site(tmp_path, broker)


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [outcome.reason if isinstance(outcome, Refusal) else "accepted" for outcome in outcomes]


def with_header(unit: SigningUnit, payload: bytes, **changes: object) -> bytes:
    """The event under another protected header, with its own signature."""
    members = json.loads(payload)
    header = {"alg": "ES256", "kid": unit.key.kid, "typ": SIGNATURE_TYPE} | changes
    members["sig"] = f"{encode_base64url(json.dumps(header).encode())}..{members['sig'].split('.')[2]}"
    return rfc8785.dumps(members)


def altered(payload: bytes, **data: object) -> bytes:
    members = json.loads(payload)
    members["data"] |= data
    return rfc8785.dumps(members)


def stripped(payload: bytes) -> bytes:
    members = json.loads(payload)
    del members["sig"]
    return rfc8785.dumps(members)


def resigned(unit: SigningUnit, payload: bytes, key: UnitKey | None = None, typ: str = SIGNATURE_TYPE) -> bytes:
    return unit.sign(json.loads(payload), key=key, typ=typ)


Attack = Callable[[Site, bytes], bytes]
ATTACKS: dict[str, tuple[str, Attack, str]] = {
    "another unit's event on this unit's topic": ("event/match", lambda s, _: s.say("door-2"), "wrong_unit"),
    "a match on the topic of presence": ("event/presence", lambda _, p: p, "wrong_topic"),
    "another unit's key": ("event/match", lambda s, p: resigned(s.unit, p, s.units["door-2"].key), "wrong_key"),
    "a key that nobody listed": ("event/match", lambda s, p: resigned(s.unit, p, UnitKey.generate()), "unknown_unit"),
    "altered content": ("event/match", lambda _, p: altered(p, zone="vault"), "bad_signature"),
    "stripped signature": ("event/match", lambda _, p: stripped(p), "unsigned"),
    "none alg": ("event/match", lambda s, p: with_header(s.unit, p, alg="none"), "unsecured"),
    "wrong alg": ("event/match", lambda s, p: with_header(s.unit, p, alg="HS256"), "wrong_algorithm"),
    "wrong typ": ("event/match", lambda s, p: resigned(s.unit, p, typ="postern-command+jws"), "wrong_type"),
    "wrong kid": (
        "event/match",
        lambda s, p: with_header(s.unit, p, kid=s.units["door-2"].key.kid),
        "wrong_key",
    ),
    "a score smuggled in": ("event/match", lambda _, p: altered(p, score=0.9), "malformed"),
    "no event at all": ("event/match", lambda _, p: b"\x00" * 64, "malformed"),
    "too large": ("event/match", lambda _, p: b" " * 20_000 + p, "too_large"),
}


# Kinds of attack that an auditor tells apart by their reasons alone.
KINDS = (
    "another unit's event on this unit's topic",
    "a match on the topic of presence",
    "another unit's key",
    "a key that nobody listed",
    "altered content",
    "stripped signature",
    "none alg",
    "wrong alg",
    "wrong typ",
    "no event at all",
    "too large",
)


def test_no_two_kinds_of_attack_share_a_reason() -> None:
    reasons = {ATTACKS[kind][2] for kind in KINDS}
    assert len(reasons | {"duplicate", "replayed", "fork", "overtaken", "jump"}) == len(KINDS) + 5


@pytest.mark.parametrize("attack", ATTACKS)
def test_forged_event_is_refused_with_its_own_reason_and_honest_ones_go_on(site: Site, attack: str) -> None:
    leaf, make, reason = ATTACKS[attack]
    first, second = site.say(), site.say()
    outcomes = site.send(("event/match", first), (leaf, make(site, second)), ("event/match", second))
    assert reasons(outcomes) == ["accepted", reason, "accepted"]


def test_replayed_event_is_refused(site: Site) -> None:
    payload = site.say()
    assert reasons(site.send(*[("event/match", payload)] * 2)) == ["accepted", "duplicate"]
    later = [site.say() for _ in range(70)]
    outcomes = site.send(*(("event/match", one) for one in (*later, payload)))
    assert reasons(outcomes)[-1] == "replayed"


def test_reordered_events_are_accepted_once_and_marked_late(site: Site) -> None:
    events = [site.say() for _ in range(3)]
    outcomes = site.send(*(("event/match", events[n]) for n in (0, 2, 1, 1)))
    assert reasons(outcomes) == ["accepted", "accepted", "accepted", "duplicate"]
    assert [outcome.late for outcome in outcomes if isinstance(outcome, VerifiedEvent)] == [False, False, True]


def test_hidden_events_are_reported_as_a_gap(site: Site) -> None:
    events = [site.say() for _ in range(4)]
    _, last = site.send(("event/match", events[0]), ("event/match", events[3]))
    assert isinstance(last, VerifiedEvent)
    assert last.gap is not None
    assert (last.gap.first, last.gap.last) == (2, 3)


def test_forked_chain_is_noticed(site: Site) -> None:
    first, second = site.say(), site.say()
    history = site.unit.sign(json.loads(altered(second, prev=DIGEST)))
    outcomes = site.send(("event/match", first), ("event/match", history), ("event/match", second))
    assert reasons(outcomes) == ["accepted", "fork", "quarantined"]


@pytest.mark.parametrize("shift", [timedelta(seconds=90), -timedelta(seconds=60)])
def test_event_of_another_time_is_taken_and_never_fresh(site: Site, shift: timedelta) -> None:
    payload = site.say()
    site.clock.skipped_s += shift.total_seconds()
    (outcome,) = site.send(("event/match", payload))
    assert isinstance(outcome, VerifiedEvent)
    assert not outcome.fresh
