# SPDX-License-Identifier: Apache-2.0
"""From a decision to the queue: under which name, in which order, and what becomes of it while the disk is full."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.errors import KeyStoreError, PosternError, StorageError
from agent.match.presence import PresenceChange
from agent.match.records import Match
from agent.outbox.draft import Draft, make_match, make_presence, make_unit
from agent.protocol.subject import SubjectId
from agent.unit.forget import owner_of
from agent.unit.recorder import MAX_WAITING, Identity, Recorder

DIGEST = "sha256:" + "a" * 64
MODEL = "sha256:" + "b" * 64
ANNA, BO = SubjectId(b"a" * 16), SubjectId(b"b" * 16)
NAME, EPOCH = "p1_" + "0" * 32, "2026-W02"


class Unit:
    """A recorder before an outbox and epoch keys that do as they are told."""

    def __init__(self, *, presence: bool = True, **identity: Any) -> None:
        self.clock = SimulatedClock()
        self.clock.advance(0.75)
        self.queued: list[tuple[Draft, bytes | None]] = []
        self.asked: list[tuple[SubjectId, str, datetime, datetime | None]] = []
        self.matched: list[SubjectId] = []
        self.woken = 0
        self.problems: list[PosternError] = []
        self.full = self.keyless = self.unnoted = False
        self.recorder = Recorder(
            Identity("access", DIGEST, MODEL, **identity),
            outbox=self,  # type: ignore[arg-type]
            epoch_keys=self,  # type: ignore[arg-type]
            clock=self.clock,
            settled=lambda: self.settled,
            presence=presence,
            matched=self._note,
            appended=self._wake,
            on_problem=self.problems.append,
        )
        self.settled = self.clock.now()

    def append(self, draft: Draft, *, owner: bytes | None) -> None:
        if self.full:
            raise StorageError("no space left")
        self.queued.append((draft, owner))

    def pseudonym(
        self, subject: SubjectId, audience: str, now: datetime, *, settled: datetime | None
    ) -> tuple[str, str]:
        if self.keyless:
            raise KeyStoreError("no key for this week")
        self.asked.append((subject, audience, now, settled))
        return NAME, EPOCH

    def _note(self, subject: SubjectId) -> None:
        if self.unnoted:
            raise StorageError("no room for the note")
        self.matched.append(subject)

    def _wake(self) -> None:
        self.woken += 1

    def about(self, **others: Any) -> dict[str, Any]:
        return {
            "subject": NAME,
            "audience": "access",
            "epoch": EPOCH,
            "now": self.clock.now(),
            "clock": "synced",
            "time_step_s": 1,
        } | others


def test_a_match_is_queued_under_its_pseudonym_and_its_owner_and_the_use_is_noted() -> None:
    unit, match = Unit(), Match(ANNA, "door", 7, "passed", "token")
    unit.recorder.outcome(match, ("gate",))
    assert unit.queued == [
        (make_match(match, policy=DIGEST, model=MODEL, granted=("gate",), **unit.about()), owner_of(ANNA))
    ]
    assert unit.asked == [(ANNA, "access", unit.clock.now(), unit.settled)]
    assert (unit.woken, unit.matched, unit.problems) == (1, [ANNA], [])


def test_a_subject_is_sealed_where_the_consumer_has_a_key_and_a_time_is_as_coarse_as_configured() -> None:
    unit = Unit(seal=lambda name, epoch: f"s1 {name} {epoch}", time_step_s=60)
    match = Match(ANNA, "door", 7)
    unit.recorder.outcome(match)
    about = unit.about(subject=f"s1 {NAME} {EPOCH}", time_step_s=60)
    assert unit.queued[0][0] == make_match(match, policy=DIGEST, model=MODEL, **about)
    unit.clock.step_wall(0, "unsynced")
    unit.recorder.unit("started")
    assert unit.queued[1] == (
        make_unit("started", now=unit.clock.now(), clock="unsynced", time_step_s=60),
        None,
    )


def test_who_arrives_and_leaves_is_told_where_that_is_wanted() -> None:
    change = PresenceChange(BO, "left", "door", 7)
    quiet = Unit(presence=False)
    quiet.recorder.outcome(change)
    assert quiet.queued == []
    assert quiet.asked == [], "not even a name is made"
    unit = Unit()
    unit.recorder.outcome(change)
    assert unit.queued == [(make_presence(state="left", zone="door", **unit.about()), owner_of(BO))]
    assert unit.matched == [], "nobody was compared"


def test_without_a_key_for_names_nobody_is_announced_and_the_reason_is_told() -> None:
    unit = Unit()
    unit.keyless = True
    unit.recorder.outcome(Match(ANNA, "door", 7))
    assert [str(problem) for problem in unit.problems] == ["no key for this week"]
    assert (unit.queued, unit.matched, unit.woken) == ([], [], 0)


def test_a_use_that_cannot_be_noted_is_told_and_the_event_goes_out() -> None:
    unit = Unit()
    unit.unnoted = True
    unit.recorder.outcome(Match(ANNA, "door", 7))
    assert [str(problem) for problem in unit.problems] == ["no room for the note"]
    assert len(unit.queued) == 1


def test_what_the_disk_refuses_waits_in_its_order_and_nothing_overtakes_it() -> None:
    unit = Unit()
    unit.full = True
    unit.recorder.outcome(Match(ANNA, "door", 1))
    unit.recorder.outcome(Match(BO, "door", 2))
    assert [str(problem) for problem in unit.problems] == ["no space left"] * 2
    assert unit.woken == 0
    unit.full = False
    unit.recorder.unit("storage_low")
    assert [owner for _, owner in unit.queued] == [owner_of(ANNA), owner_of(BO), None]
    assert unit.woken == 3
    unit.recorder.retry()
    assert len(unit.queued) == 3, "none twice"


def test_waiting_is_bounded_and_that_events_are_lost_is_told() -> None:
    unit = Unit()
    unit.full = True
    for _ in range(MAX_WAITING):
        unit.recorder.unit("clock_step")
    assert {str(problem) for problem in unit.problems} == {"no space left"}
    unit.recorder.unit("tamper")
    assert str(unit.problems[-2]) == "the disk stays full: events are being lost; make room on it now"
    unit.full = False
    unit.recorder.retry()
    assert len(unit.queued) == MAX_WAITING
    assert unit.queued[-1][0].facts["condition"] == "tamper", "the oldest went"


@pytest.mark.parametrize("gone", [ANNA, BO])
def test_who_is_erased_while_events_wait_is_in_none_of_them(gone: SubjectId) -> None:
    unit = Unit()
    unit.full = True
    for subject in (ANNA, BO, ANNA):
        unit.recorder.outcome(Match(subject, "door", 1))
    unit.recorder.forget(gone)
    unit.full = False
    unit.recorder.unit("started")
    left = [subject for subject in (ANNA, BO, ANNA) if subject != gone]
    assert [owner for _, owner in unit.queued] == [*map(owner_of, left), None]
    unit.full = True
    for _ in range(MAX_WAITING + 1):
        unit.recorder.unit("tamper")
    assert len(unit.recorder._waiting) == MAX_WAITING, "bounded as before"
