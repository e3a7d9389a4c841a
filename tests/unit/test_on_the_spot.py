# SPDX-License-Identifier: Apache-2.0
"""The act of whoever enrols: a press or movements that the unit chose, by one track, alone, in the zone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from agent.detect.face import Face
from agent.detect.pose import head_pose
from agent.detect.track import Track, Tracker
from agent.door.on_the_spot import DWELL_NS, MOVES, PRESS_NS, STEP_NS, STEPS, Asked, ButtonAct, Key, MovesAct, OnTheSpot
from agent.unit.capturing import EnrolmentSession, Progress
from agent.unit.spot_session import SpotSession
from tests.simulators.heads import face

FRAME_NS = 100_000_000
TURN: dict[str, dict[str, float]] = {
    "front": {},
    "left": {"yaw": 24},
    "right": {"yaw": -24},
    "up": {"pitch": -22},
    "down": {"pitch": 22},
}
ZONE = (200, 1000)


def fit(track: Track) -> bool:
    x = (track.face.box[0] + track.face.box[2]) / 2
    return ZONE[0] <= x <= ZONE[1] and head_pose(track.face.landmarks).turn <= 25


class Door:
    """An act that is shown faces, ten frames a second."""

    def __init__(self, act: OnTheSpot) -> None:
        self.act, self.tracker, self.now_ns = act, Tracker(), 0
        self.asked: list[Key | Asked] = []

    def show(self, *faces: Face, seconds: float = FRAME_NS / 1e9, fits: Callable[[Track], bool] = fit) -> Key | Asked:
        for _ in range(max(1, round(seconds * 1e9 / FRAME_NS))):
            self.now_ns += FRAME_NS
            self.asked.append(self.act.look(self.tracker.update(faces, self.now_ns), fits, self.now_ns))
        return self.asked[-1]

    def obey(self, steps: int = 20, x: float = 600) -> Key | Asked:
        """Somebody who does what they are told."""
        told: Key | Asked = self.show(face(x, 300), seconds=1.2)
        for _ in range(steps):
            if not isinstance(told, str):
                break
            told = self.show(face(x, 300, **TURN[told]), seconds=0.6)
        return told


def moves(seed: int = 1) -> MovesAct:
    return MovesAct(np.random.default_rng(seed).bytes)


@pytest.mark.parametrize("seed", range(12))
def test_who_turns_as_the_unit_asks_is_bound(seed: int) -> None:
    door = Door(moves(seed))
    bound = door.obey()
    assert not isinstance(bound, str)
    asked = [one for one, after in pairwise(["front", *door.asked, "end"]) if one in MOVES and after != one]
    assert len(asked) == STEPS
    assert all(one != other for one, other in pairwise(asked)), "the same never twice running"
    assert door.show(face(610, 300), seconds=2) == bound, "and stays so while the track lives"


def test_the_order_is_not_known_before() -> None:
    orders = set()
    for seed in range(60):
        door = Door(moves(seed))
        door.obey()
        orders.add(tuple(one for one, after in pairwise([*door.asked, "end"]) if one in MOVES and after != one))
    assert len(orders) > 20, "32 orders"


@pytest.mark.parametrize(
    "faces",
    [
        [face(100 + 60 * n, 300) for n in range(20)],  # walks through
        [face(600, 300)] * 300,  # stands and looks for half a minute
        [face(600, 300, yaw=20 * np.sin(n / 6)) for n in range(600)],  # looks left and right for a minute
        [face(60, 300, yaw=24 * ((n // 6) % 3 - 1)) for n in range(300)],  # turns, outside the zone
    ],
    ids=["walks past", "stands there", "looks about", "outside the zone"],
)
@pytest.mark.parametrize("seed", range(8))
def test_a_passer_by_has_not_acted(faces: Sequence[Face], seed: int) -> None:
    door = Door(moves(seed))
    for one in faces:
        assert isinstance(door.show(one), str)


def test_nobody_is_bound_while_two_are_in_view() -> None:
    door = Door(moves())
    for told in ("front", *MOVES, "front") * 4:
        assert isinstance(door.show(face(600, 300, **TURN[told]), face(850, 300), seconds=0.6), str)


def test_who_turns_the_wrong_way_begins_anew_with_other_movements() -> None:
    door = Door(moves())
    first = door.show(face(600, 300), seconds=1.5)
    assert first in MOVES
    wrong = next(one for one in MOVES if one != first)
    assert door.show(face(600, 300, **TURN[wrong]), seconds=0.5) == "front"
    assert not isinstance(door.obey(), str)


def test_who_takes_too_long_begins_anew() -> None:
    door = Door(moves())
    door.show(face(600, 300), seconds=1.5)
    door.show(face(600, 300), seconds=STEP_NS / 1e9)
    assert "front" in door.asked[-5:] or door.asked[-1] in MOVES
    assert not isinstance(door.obey(), str)


@pytest.mark.parametrize("act", [ButtonAct, moves])
def test_who_goes_away_has_to_act_again(act: Callable[[], OnTheSpot]) -> None:
    door = Door(act())
    door.act.press(0)
    assert not isinstance(door.obey(), str)
    door.show(seconds=1.5)
    assert isinstance(door.show(face(600, 300), seconds=1), str)


def test_without_a_press_nobody_is_bound() -> None:
    door = Door(ButtonAct())
    assert door.show(face(600, 300), seconds=30) == "press"


def test_a_press_counts_for_who_stands_there_and_only_for_some_seconds() -> None:
    door = Door(ButtonAct())
    door.act.press(door.now_ns)
    assert door.show(face(600, 300), seconds=DWELL_NS / 2e9) == "front"
    assert not isinstance(door.show(face(600, 300), seconds=DWELL_NS / 1e9), str)
    late = Door(ButtonAct())
    late.act.press(0)
    late.show(seconds=PRESS_NS / 1e9 + 0.2)
    assert late.show(face(600, 300), seconds=3) == "press"


def test_a_press_that_is_newer_than_the_camera_s_frames_is_waited_for() -> None:
    door = Door(ButtonAct())
    door.show(face(600, 300), seconds=1)
    door.act.press(door.now_ns + 3 * FRAME_NS)  # the clock is ahead of what a camera delivers
    assert [door.show(face(600, 300)) for _ in range(2)] == ["front", "front"]  # from before it: nobody has acted yet
    assert not isinstance(door.show(face(600, 300)), str)


def test_a_press_is_used_once() -> None:
    door = Door(ButtonAct())
    door.act.press(0)
    assert not isinstance(door.show(face(600, 300), seconds=1), str)
    door.show(seconds=2)
    assert door.show(face(300, 300), seconds=2) == "press"


class Taking:
    """Keeps what it is offered, in place of what embeds it."""

    wanted = 5

    def __init__(self) -> None:
        self.offered: list[Face] = []

    def offer(self, _: object, faces: Sequence[Face]) -> Progress:
        self.offered += faces
        return Progress(len(self.offered), self.wanted, None)

    def cancel(self) -> None: ...


class Everywhere:
    """A gate that lets everybody be looked at."""

    def unfit(self, *_: object, **__: object) -> None: ...


def test_somebody_else_is_not_captured_while_who_has_acted_is_hidden() -> None:
    """A hand before the lens, a step aside: the act stands for a moment, and is nobody else's."""
    taking, act, tracker = Taking(), ButtonAct(), Tracker()
    session = SpotSession(cast("EnrolmentSession", taking), act, cast("Any", Everywhere()))
    now_ns = 0

    def show(one: Face) -> Progress:
        nonlocal now_ns
        now_ns += FRAME_NS
        frame: Any = SimpleNamespace(timestamp_ns=now_ns, main=SimpleNamespace(width=1280, height=720))
        return session.offer(frame, tracker.update([one], now_ns))

    here, other = face(600, 300), face(1000, 300)
    for _ in range(10):
        show(here)
    act.press(now_ns)
    show(here)
    captured = len(taking.offered)
    assert captured > 0
    assert show(other).refusal == "two_faces"
    assert len(taking.offered) == captured
