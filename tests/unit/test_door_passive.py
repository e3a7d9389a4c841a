# SPDX-License-Identifier: Apache-2.0
"""The passive network may refuse whom the challenge passed, and does nothing else: it lets nobody in."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.camera.base import Frame, Rgb, RgbPicture
from agent.door.challenge import Prompt
from agent.door.evidence import MAX_LOOKS, MIN_LOOKS, REST_NS, Looks
from agent.door.liveness import FIRST_REST_NS, CheckedLiveness, UncheckedLiveness
from agent.door.passive import SIDE, cuts, passive_part
from agent.protocol.subject import SubjectId
from tests.simulators.turning import FRAME_NS, obedient

ALICE = SubjectId(b"a" * 16)
BOX = (280.0, 180.0, 380.0, 300.0)


def picture(width: int = 640, height: int = 480) -> RgbPicture:
    y, x = np.mgrid[0:height, 0:width]
    return RgbPicture(np.stack([x * 255 // width, y * 255 // height, np.zeros_like(x)], -1).astype(np.uint8))


def frame(picture: RgbPicture, now_ns: int) -> Frame:
    return Frame(0, now_ns, np.zeros((240, 320, 3), np.uint8), picture)


class Door:
    """A check with a face before it that does what the door shows, and what a network says of it."""

    def __init__(self, answer: Callable[[Rgb], float] | None, seed: int = 1) -> None:
        self.shown: list[Prompt | None] = []
        self.kept: list[Rgb] = []
        self.said: list[int] = []  # when the network was asked

        def asked(seen: Rgb) -> float:
            assert seen.any()
            self.kept.append(seen)
            self.said.append(self.now)
            return answer(seen)  # type: ignore[misc]

        parts = [] if answer is None else [passive_part(asked, 0.0)]
        self.check = CheckedLiveness(random.Random(seed).randbytes, self.shown.append, parts)
        self.now, self.pose, self.picture = 0, obedient(), picture()

    def frame(self, box: tuple[float, float, float, float] = BOX, *, obeys: bool = True, named: bool = True) -> None:
        watched, prompt = self.check.watched is not None, self.shown[-1] if self.shown else None
        angles = self.pose(prompt) if obeys else (0.0, 0.0)
        if watched:
            self.check.see(frame(self.picture, self.now), box)
        self.check.look({1: ALICE} if named else {}, angles if watched else None, self.now)
        self.now += FRAME_NS

    def until_over(self, **how: object) -> str:
        self.frame()
        for _ in range(600):
            if self.check.watched is None:
                break
            self.frame(**how)  # type: ignore[arg-type]
        return self.check.vouch(1, ALICE)


def test_who_turns_as_asked_and_looks_alive_passes() -> None:
    assert Door(lambda _: 1.0).until_over() == "passed"


@pytest.mark.parametrize("said", [-1.0, -math.inf, math.nan])
def test_who_turns_as_asked_and_looks_like_an_attack_fails(said: float) -> None:
    door = Door(lambda _: said)
    assert door.until_over() == "failed"
    plain = Door(None)
    plain.until_over()
    assert door.shown == plain.shown, "the door shows the same whether the network refuses or not"
    door.frame()
    assert door.check.watched is None, "a failure rests, whichever part refused"
    door.now += FIRST_REST_NS
    door.frame()
    assert door.check.watched == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.floats(), min_size=1, max_size=30), st.booleans())
def test_no_answer_of_the_network_lets_anybody_pass_whom_the_challenge_refuses(seed, answers, obeys) -> None:
    said = iter(answers * MAX_LOOKS)
    with_network, without = Door(lambda _: next(said), seed), Door(None, seed)
    first, second = with_network.until_over(obeys=obeys), without.until_over(obeys=obeys)
    assert first == "failed" or second == "passed"
    assert second == "failed" or obeys


def test_a_network_that_saw_too_little_is_no_pass() -> None:
    door = Door(lambda _: 9.0)
    assert door.until_over(box=(300.0, 200.0, 310.0, 210.0)) == "failed"
    assert not door.said
    passive = passive_part(lambda _: 9.0, 0.0)
    looks = Looks()
    for number in range(MIN_LOOKS):
        assert not looks.passed(passive)
        looks = looks.after(passive, frame(picture(), number), BOX)
    assert looks.passed(passive)


def test_the_network_looks_so_often_and_no_more() -> None:
    for seed in range(20):
        door = Door(lambda _: 1.0, seed)
        assert door.until_over() == "passed"
        assert MIN_LOOKS <= len(door.said) <= MAX_LOOKS
        assert min(np.diff(door.said)) >= REST_NS
    waits = Door(lambda _: 1.0)
    waits.frame()
    for _ in range(600):
        waits.frame(named=False)  # never matched again: it looks ahead until its time is over
    assert len(waits.said) <= MAX_LOOKS


def test_what_the_network_saw_is_overwritten() -> None:
    door = Door(lambda _: 1.0)
    door.until_over()
    assert door.kept
    assert not any(seen.any() for seen in door.kept)


def test_nobody_is_looked_at_who_is_not_challenged() -> None:
    door = Door(lambda _: 1.0)
    door.check.see(frame(door.picture, 0), BOX)
    for _ in range(50):
        door.frame(named=False)
    assert not door.said
    UncheckedLiveness().see(frame(door.picture, 0), BOX)


def test_both_cuts_are_centred_on_the_face_and_as_wide_as_the_teachers_have_them() -> None:
    seen = cuts(picture(), BOX)
    assert seen is not None
    assert seen.shape == (2 * SIDE, SIDE, 3)
    for part, reach in ((seen[:SIDE], 2.7), (seen[SIDE:], 4.0)):
        side = reach * math.sqrt(100 * 120)
        assert part[SIDE // 2, SIDE // 2, 0] == pytest.approx(330 * 255 / 640, abs=2)
        assert int(part[40, -1, 0]) - int(part[40, 0, 0]) == pytest.approx(side * 255 / 640 * (SIDE - 1) / SIDE, abs=3)


def test_a_cut_stays_inside_the_picture() -> None:
    seen = cuts(picture(), (600.0, 440.0, 700.0, 560.0))
    assert seen is not None
    assert seen[SIDE - 1, SIDE - 1, 0] >= 252
    assert cuts(picture(200, 100), (20.0, 10.0, 180.0, 90.0)) is not None


Number = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(deadline=None)
@given(st.tuples(Number, Number, Number, Number))
def test_no_box_however_hostile_is_more_than_no_cut(box) -> None:
    seen = cuts(picture(320, 240), box)
    assert seen is None or seen.shape == (2 * SIDE, SIDE, 3)
