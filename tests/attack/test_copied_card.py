# SPDX-License-Identifier: Apache-2.0
"""A copied card: two devices count on under one key. Whatever the copy does, the key ends in quarantine."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.errors import StorageError
from agent.protocol.trust import TrustedUnits
from agent.subscribe.chain import MAX_JUMP
from agent.subscribe.files import StateFile
from agent.subscribe.verify import VerifiedEvent, Verifier
from tests.simulators.signing_unit import (
    DIGEST,
    START,
    SigningUnit,
    presence_draft,
    refused,
    trust_list,
    unit_draft,
    verifier_of,
)

OTHER_BOOT = "fedcba9876543210"


class Copy:
    """A second device with the unit's key, which says what it likes."""

    def __init__(self, unit: SigningUnit) -> None:
        self._unit = unit

    def say(self, seq: int, **data: Any) -> tuple[str, bytes]:
        """An event of this number: topic and payload."""
        row = self._unit.outbox.pending(1)[0]
        members = json.loads(row.payload)
        members["time"] = self._unit.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        members["data"].update({"boot": OTHER_BOOT, "seq": seq, "prev": DIGEST, **data})
        members["id"] = f"{members['data']['boot']}-{seq}"
        return self._unit.topic(row), self._unit.sign(members)


def test_copy_that_jumps_ahead_is_quarantined_as_soon_as_the_unit_speaks(unit: SigningUnit, verifier: Verifier) -> None:
    first = unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    topic, ahead = Copy(unit).say(1000)
    verifier.check(topic, ahead, START)
    second, third = unit.say(), unit.say()
    assert refused(verifier, unit.topic(second), second.payload) == "overtaken"
    for seq in range(1001, 1041):  # 40 of 40 were accepted before
        assert refused(verifier, *Copy(unit).say(seq)) == "quarantined"
    assert refused(verifier, unit.topic(third), third.payload) == "quarantined"


def test_copy_of_the_same_run_is_noticed_by_the_time(unit: SigningUnit, verifier: Verifier) -> None:
    first = unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    boot = json.loads(first.payload)["data"]["boot"]
    verifier.check(*Copy(unit).say(1000, boot=boot), START)
    unit.clock.advance(11)
    second = unit.say()
    now = START + timedelta(seconds=11)
    assert refused(verifier, unit.topic(second, "backlog"), second.payload, now=now) == "overtaken"
    assert refused(verifier, *Copy(unit).say(1001, boot=boot), now=now) == "quarantined"


def test_after_a_fork_no_forged_event_is_accepted(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(3)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    copy = Copy(unit)
    assert refused(verifier, *copy.say(1)) == "fork"
    said = [refused(verifier, *copy.say(seq)) for seq in range(2, 42)]
    assert said == ["quarantined"] * 40, "every second one was accepted before"
    assert refused(verifier, unit.topic(rows[1]), rows[1].payload) == "quarantined"


def test_jump_beyond_what_an_outbox_holds_is_quarantined(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    assert refused(verifier, *Copy(unit).say(MAX_JUMP + 3)) == "jump"
    assert refused(verifier, unit.topic(second), second.payload) == "quarantined"


def test_subscriber_that_was_away_for_months_quarantines_nobody(unit: SigningUnit, verifier: Verifier) -> None:
    first = unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    unit.clock.advance(90 * 86_400)
    topic, later = Copy(unit).say(1 + 90 * 40_000)
    verified = verifier.check(topic, later, START + timedelta(days=90))
    assert verified.gap is not None
    assert verified.fresh


def test_clocks_that_differ_by_seconds_make_no_copy(unit: SigningUnit, verifier: Verifier) -> None:
    behind = START - timedelta(seconds=20)
    rows = [unit.say() for _ in range(3)]
    held = [unit.say(presence_draft(unit.clock)) for _ in range(2)]  # by the broker's rules, say
    rows.append(unit.say())
    for row in rows:
        verifier.check(unit.topic(row), row.payload, behind)
    for row in held:
        assert verifier.check(unit.topic(row, "backlog"), row.payload, behind + timedelta(seconds=60)).late


def test_events_of_two_runs_in_the_order_of_their_topics_make_no_copy(unit: SigningUnit, verifier: Verifier) -> None:
    rows = [unit.say() for _ in range(4)]
    unit.restart()
    unit.clock.advance(2)
    restarted = unit.say(unit_draft(unit.clock))
    now = START + timedelta(seconds=3)
    for row in (rows[0], rows[1], restarted):
        verifier.check(unit.topic(row), row.payload, now)
    for row in rows[2:]:
        assert verifier.check(unit.topic(row), row.payload, now).late


def test_restarted_unit_with_a_backlog_is_no_copy(unit: SigningUnit, verifier: Verifier) -> None:
    first, second = unit.say(), unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    unit.restart()
    third = unit.say()
    assert verifier.check(unit.topic(third), third.payload, START).fresh
    assert verifier.check(unit.topic(second, "backlog"), second.payload, START).late


def test_other_keys_are_not_touched(unit: SigningUnit, tmp_path: Path) -> None:
    other = SigningUnit(tmp_path / "other.db", "door-4")
    verifier = verifier_of(unit, other)
    first = unit.say()
    verifier.check(unit.topic(first), first.payload, START)
    assert refused(verifier, *Copy(unit).say(1)) == "fork"
    row = other.say()
    assert isinstance(verifier.check(other.topic(row), row.payload, START), VerifiedEvent)
    assert verifier.quarantined() == {"door-3": "fork"}
    other.outbox.close()


def test_quarantine_survives_a_restart_until_a_person_decides(unit: SigningUnit, tmp_path: Path) -> None:
    state, trust = StateFile(tmp_path / "seen.db"), TrustedUnits(trust_list(unit))
    state.load()
    verifier, rows = Verifier(trust), [unit.say() for _ in range(3)]
    verifier.check(unit.topic(rows[0]), rows[0].payload, START)
    assert refused(verifier, *Copy(unit).say(1)) == "fork"
    state.commit(chains=verifier.take_changed())
    with pytest.raises(StorageError, match="in use by another process"):
        StateFile(tmp_path / "seen.db").release("door-3")
    again = Verifier(trust, state=state.load().chains)
    assert refused(again, unit.topic(rows[1]), rows[1].payload) == "quarantined"
    state.close()
    assert not state.release("door-4")
    assert state.release("door-3")
    assert not state.release("door-3")
    anew = Verifier(trust, state=state.load().chains)
    assert anew.check(unit.topic(rows[1]), rows[1].payload, START).gap is None
    state.close()
