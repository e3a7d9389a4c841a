# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.door.challenge import MAX_GAP_NS, Prompt
from agent.door.liveness import FIRST_REST_NS, LONGEST_REST_NS, MAX_FAILURES, CheckedLiveness, UncheckedLiveness
from agent.protocol.subject import SubjectId
from tests.simulators.turning import FRAME_NS, obedient

ALICE, BOB = SubjectId(b"a" * 16), SubjectId(b"b" * 16)


class Door:
    """A check with a face before it that does what the door shows, or stands still."""

    def __init__(self, seed: int = 1) -> None:
        self.shown: list[Prompt | None] = []
        self.check = CheckedLiveness(random.Random(seed).randbytes, self.shown.append)
        self.now = 0
        self.pose = obedient()

    def frame(self, named: Mapping[int, SubjectId], *, seen: bool = True, obeys: bool = True) -> None:
        prompt = self.shown[-1] if self.shown else None
        angles = self.pose(prompt) if obeys else (0.0, 0.0)
        self.check.look(named, angles if seen and self.check.watched is not None else None, self.now)
        self.now += FRAME_NS

    def frames(self, count: int, named: Mapping[int, SubjectId], *, seen: bool = True, obeys: bool = True) -> None:
        for _ in range(count):
            self.frame(named, seen=seen, obeys=obeys)


def passed(seed: int = 1) -> Door:
    door = Door(seed)
    door.frames(300, {1: ALICE})
    assert door.check.vouch(1, ALICE) == "passed"
    return door


def test_nobody_passes_before_the_challenge_is_over() -> None:
    door = Door()
    assert door.check.vouch(1, ALICE) == "failed"
    while door.check.vouch(1, ALICE) != "passed":
        assert door.shown.count(None) == 0
        door.frame({1: ALICE})
        assert door.now < 30_000_000_000
    assert door.shown[0] == "wait"
    assert door.shown[-1] is None
    assert door.check.watched is None


def test_a_pass_is_one_tracks_and_one_subjects() -> None:
    door = passed()
    assert door.check.vouch(2, ALICE) == "failed"
    assert door.check.vouch(1, BOB) == "failed"


def test_a_track_that_becomes_somebody_else_has_not_passed() -> None:
    door = passed()
    door.frame({1: BOB})
    assert door.check.vouch(1, BOB) == "failed"
    assert door.check.vouch(1, ALICE) == "failed"


@pytest.mark.parametrize("how", ["track", "all", "subject"])
def test_what_is_forgotten_has_not_passed(how) -> None:
    door = passed()
    if how == "track":
        door.check.forget([1])
    elif how == "all":
        door.check.forget_all()
    else:
        door.check.forget_subject(ALICE)
    assert door.check.vouch(1, ALICE) == "failed"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 200), st.sampled_from(["lost", "swapped", "forgotten", "paused"]))
def test_a_challenge_that_is_broken_off_is_not_passed(seed, frames, how) -> None:
    door = Door(seed)
    door.frames(frames, {1: ALICE})
    if door.check.watched is None:
        return
    if how == "lost":
        door.frames(MAX_GAP_NS // FRAME_NS + 2, {}, seen=False)
    elif how == "swapped":
        door.frame({1: BOB})
    elif how == "forgotten":
        door.check.forget([1])
    else:
        door.check.forget_all()
    assert door.check.vouch(1, ALICE) == "failed"
    assert door.check.vouch(1, BOB) == "failed"
    door.frames(20, {1: ALICE})  # 1.6 s: less than the rest after a failure
    assert door.check.watched is None
    assert door.check.vouch(1, ALICE) == "failed"


def test_a_face_that_is_not_matched_again_does_not_pass() -> None:
    door = Door()
    door.frame({1: ALICE})
    door.frames(600, {})
    assert door.check.vouch(1, ALICE) == "failed"


def test_each_failure_makes_a_subject_wait_longer_on_whatever_track() -> None:
    door, waits, track, idle_since = Door(), [], 1, None
    while len(waits) < 9:
        door.frame({track: ALICE}, obeys=False)
        if door.check.watched is None and idle_since is None:
            track, idle_since = track + 1, door.now  # who steps out and in again is no new face for it
        elif door.check.watched is not None and idle_since is not None:
            waits.append(door.now - idle_since)
            idle_since = None
    for number, wait in enumerate(waits):
        assert wait == pytest.approx(min(FIRST_REST_NS << number, LONGEST_REST_NS), abs=2 * FRAME_NS)


def test_a_failure_of_one_subject_does_not_keep_another_waiting() -> None:
    door = Door()
    door.frame({1: ALICE, 2: BOB})
    assert door.check.watched == 1
    door.frames(300, {1: ALICE, 2: BOB}, obeys=False)
    assert door.check.watched == 2 or door.shown.count(None) >= 2


def test_failures_are_bounded_and_go_with_the_subject() -> None:
    door = Door()
    for number in range(MAX_FAILURES + 10):
        door.frame({1: SubjectId(number.to_bytes(16, "big"))})
        door.check.forget([1])
    assert len(door.check._failures) == MAX_FAILURES
    last = SubjectId((MAX_FAILURES + 9).to_bytes(16, "big"))
    assert last in door.check._failures
    door.check.forget_subject(last)
    assert last not in door.check._failures


def test_whoever_is_named_by_nobody_is_asked_nothing_and_kept_nowhere() -> None:
    door = Door()
    door.frames(200, {})
    assert door.shown == []
    assert (door.check._watch, door.check._passed, door.check._failures) == (None, {}, {})


def test_where_liveness_is_off_everybody_is_announced_as_not_checked() -> None:
    check = UncheckedLiveness()
    check.look({1: ALICE}, (40.0, 0.0), 0)
    assert check.watched is None
    assert check.vouch(1, ALICE) == "not_checked"
