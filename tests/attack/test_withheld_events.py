# SPDX-License-Identifier: Apache-2.0
"""What a broker withholds or drops: the tail shows in ``health``, the rest as gaps; both are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import VerificationError
from agent.keys import SigningKey
from agent.protocol.trust import TrustedUnits
from agent.subscribe.chain import MISSING_RANGES, Chains
from agent.subscribe.files import StateFile
from agent.subscribe.heads import Heads
from agent.subscribe.show import in_words, what_is_missing
from agent.subscribe.verify import Verifier
from agent.uplink.health import HealthReporter
from tests.simulators.signing_unit import START, SigningUnit, refused, trust_list, verifier_of

TOPIC = "postern/hq/door-3/health"


class Unit:
    """A unit that says how it does."""

    def __init__(self, unit: SigningUnit) -> None:
        self.unit = unit
        self.entries = 7
        self.waiting = 0
        self.days: int | None = None
        self.weeks = 3
        self.start()

    def start(self, boot: str = "0123456789abcdef", signer: Any = None) -> None:
        """Begin a run of the agent."""
        self._reporter = HealthReporter(
            source=self.unit.source,
            boot=boot,
            signer=signer or self.unit.key,
            clock=self.unit.clock,
            outbox=self,
            frames=lambda: 0,
            recognition=lambda: "running",
            temperature=lambda: None,
            disk_free=lambda: 1,
            audit_head=lambda: f"{self.entries}:sha256:{'0' * 64}",
            epochs=lambda: self.weeks,
            certificate_days=lambda: self.days,
        )

    def head(self) -> tuple[int, str]:
        """The chain's end."""
        return self.unit.outbox.head()

    def depth(self) -> int:
        """How many events wait for the broker."""
        return self.waiting

    def health(self, after_s: float = 60) -> bytes:
        """The next report."""
        self.unit.clock.advance(after_s)
        return self._reporter.build()


@pytest.fixture
def door(unit: SigningUnit) -> Unit:
    return Unit(unit)


def told(verifier: Verifier, heads: Heads, payload: bytes) -> list[str]:
    return heads.note(*verifier.check_health(TOPIC, payload, START))


def test_withheld_tail_is_told_once_for_each_change(unit: SigningUnit, verifier: Verifier, door: Unit) -> None:
    heads, rows = Heads(), [unit.say() for _ in range(4)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    (first,) = told(verifier, heads, door.health())
    assert first.startswith("3 events of unit door-3 were withheld")
    assert told(verifier, heads, door.health()) == [], "told before"
    assert heads.withheld() == {"door-3": 3}
    for row in rows[1:]:
        verifier.check(unit.topic(row, "backlog"), row.payload, START)
    (after,) = told(verifier, heads, door.health())
    assert "have come" in after
    assert heads.withheld() == {}


def test_events_that_wait_in_the_unit_are_not_withheld(unit: SigningUnit, verifier: Verifier, door: Unit) -> None:
    rows = [unit.say() for _ in range(4)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    door.waiting = 3
    assert told(verifier, Heads(), door.health()) == []


def test_audit_log_that_went_back_is_told_and_an_old_report_is_not_believed(
    unit: SigningUnit, verifier: Verifier, door: Unit
) -> None:
    heads = Heads()
    old = door.health()
    door.entries = 40
    assert told(verifier, heads, old) == told(verifier, heads, door.health()) == []
    assert told(verifier, heads, old) == [], "a report that is replayed says nothing"
    door.entries = 12
    door.start("fedcba9876543210")
    (sentence,) = told(verifier, heads, door.health())
    assert "went back from entry 40 to 12" in sentence
    assert told(verifier, Heads(heads.take_changed()), door.health()) == []
    assert unit


def test_what_runs_out_at_a_unit_is_told_once_for_each_change(
    unit: SigningUnit, verifier: Verifier, door: Unit
) -> None:
    heads = Heads()
    assert told(verifier, heads, door.health()) == []
    door.days, door.weeks = 200, 3
    assert told(verifier, heads, door.health()) == []
    door.days, door.weeks = 12, 1
    first, second = told(verifier, heads, door.health())
    assert first == "the certificate of unit door-3 ends in 12 days: postern site renew-unit door-3"
    assert second.startswith("unit door-3 has epoch keys for 1 weeks")
    assert told(verifier, heads, door.health()) == []
    door.days, door.weeks = 364, 3
    assert told(verifier, heads, door.health()) == []
    assert unit


def test_forged_health_is_refused(unit: SigningUnit, verifier: Verifier, door: Unit) -> None:
    def refusal(topic: str, payload: bytes) -> str:
        with pytest.raises(VerificationError) as raised:
            verifier.check_health(topic, payload, START)
        return raised.value.reason

    good = door.health()
    assert refusal(TOPIC, good.replace(b'"queue_depth":0', b'"queue_depth":9')) == "bad_signature"
    assert refusal("postern/hq/door-4/health", good) == "wrong_unit"
    assert refusal("postern/annex/door-3/health", good) == "wrong_topic"
    assert refusal(TOPIC, b"\xff") == "malformed"
    assert refusal(TOPIC, b" " * 9000) == "too_large"
    door.start(signer=SigningKey.generate())
    assert refusal(TOPIC, door.health()) == "unknown_unit"
    assert unit


def test_head_of_another_history_quarantines_the_key(unit: SigningUnit, verifier: Verifier, door: Unit) -> None:
    first, second = unit.say(), unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    door.head = lambda: (1, "sha256:" + "5a" * 32)  # type: ignore[method-assign]
    with pytest.raises(VerificationError, match="another event with a number that is known"):
        verifier.check_health(TOPIC, door.health(), START)
    assert refused(verifier, unit.topic(second), second.payload) == "quarantined"


def test_replaced_key_says_no_health(unit: SigningUnit, door: Unit) -> None:
    verifier = Verifier(TrustedUnits(trust_list(unit, until="2027-01-01T00:00:00Z")))
    with pytest.raises(VerificationError, match="no longer counts"):
        verifier.check_health(TOPIC, door.health(), START)


def test_what_the_broker_dropped_for_an_absent_auditor_is_named_for_each_unit(tmp_path: Path) -> None:
    units = [SigningUnit(tmp_path / f"{name}.db", name) for name in ("door-3", "door-4")]
    state, verifier = StateFile(tmp_path / "seen.db"), verifier_of(*units)
    state.load()
    for unit, seen in zip(units, ([0, 5, 7], [0, 1]), strict=True):
        rows = [unit.say() for _ in range(8)]
        for number in seen:
            verifier.check(unit.topic(rows[number]), rows[number].payload, START)
    state.commit(chains=verifier.take_changed())
    kept = StateFile(tmp_path / "seen.db").look()  # on demand, while the subscriber runs
    (fact,) = what_is_missing(Chains(kept.chains).all_missing(), {}, {})
    assert fact == {"outcome": "missing", "unit": "door-3", "count": 5, "gaps": [[2, 5], [7, 7]]}
    assert in_words(fact) == "unit door-3: 5 events missing: 2 to 5, 7"
    state.close()
    for unit in units:
        unit.outbox.close()


def test_gaps_beyond_what_is_remembered_are_told_as_lost(tmp_path: Path) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    verifier = verifier_of(unit)
    for number in range(2 * (MISSING_RANGES + 3)):
        row = unit.say()
        if number % 2 == 0:
            verifier.check(unit.topic(row), row.payload, START)
    assert len(verifier.missing(unit.name)) == MISSING_RANGES
    lost = verifier.take_given_up()
    assert [(one.unit, one.gap.first, one.count) for one in lost] == [(unit.name, 2, 1), (unit.name, 4, 1)]
    assert verifier.take_given_up() == []
