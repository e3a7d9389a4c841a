# SPDX-License-Identifier: Apache-2.0
"""Whoever is followed and due for nothing is looked at in every other frame, and nobody is matched later for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent import pipeline
from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.detect.cadence import LONGEST_GAP_NS, Cadence
from agent.detect.change import ChangeTest
from agent.detect.detector import load_detector
from agent.detect.face import Face
from agent.detect.gate import ButtonGate, FaceLimits, ZoneGate
from agent.detect.second_try import SecondTry
from agent.detect.track import WALK_GROWTH, WALK_SHIFT, Tracker
from agent.detect.view import WHOLE
from agent.door.liveness import UncheckedLiveness
from agent.embed.records import Crop, Embedding
from agent.gallery.references import References
from agent.match.decide import Decider
from agent.match.policy import parse_policy
from agent.match.presence import Presence, PresenceChange
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.timing import StageTimes
from agent.unit.looking import ALWAYS_NS
from tests.unit.test_change import SCENES

MODELS = Path(__file__).parents[2] / "models"
POLICY = parse_policy((MODELS / "policy.json").read_bytes())
DOOR = [(0.25, 0.1), (0.75, 0.1), (0.75, 0.9), (0.25, 0.9)]
WIDTH, HEIGHT, FPS = 640, 360, 15
PICTURE = RgbPicture(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
SECOND = 1_000_000_000
MODEL = POLICY.model
ALICE = SubjectId(b"a" * 16)
VECTORS = np.eye(128, dtype=np.float32)
NOBODY = References((), VECTORS[:0], MODEL)


def face(x: float, y: float = 170, size: float = 100) -> Face:
    """A frontal face centred at x, y."""
    marks = np.array([[-0.2, -0.15], [0.2, -0.15], [0, 0.07], [-0.15, 0.25], [0.15, 0.25]], np.float32) * size
    return Face((x - size / 2, y - size / 2, x + size / 2, y + size / 2), marks + np.float32([x, y]), 0.95)


class Script:
    """Faces of each frame; remembers which frames were looked at."""

    def __init__(self, faces: list[list[Face]]) -> None:
        self.faces = faces
        self.looked: list[int] = []

    def detect(self, frame: Frame, *, exact: bool, known: Sequence[Face]) -> list[Face]:
        del exact
        self.looked.append(frame.number)
        return self.faces[frame.number]

    def again(self, frame: Frame) -> list[Face]:
        del frame
        return []

    def locate(self, frame: Frame, seen: Face) -> Face:
        del frame
        return seen


class Embeds:
    def __init__(self, vector: np.ndarray) -> None:
        self.vector = vector

    def embed(self, crop: Crop) -> Embedding:
        del crop
        return Embedding(self.vector.copy(), MODEL)


class Played:
    """What happened when the frames were played, with or without sparing any."""

    def __init__(
        self,
        faces: list[list[Face]],
        *,
        every_frame: bool = False,
        fps: float = FPS,
        vector: np.ndarray = VECTORS[0],
        **changes: Any,
    ) -> None:
        self.detector, self.matched, self.admitted = Script(faces), list[int](), list[int]()
        self.left: list[int] = []
        self.cadence, embedder = Cadence(every_frame=every_frame), Embeds(vector)
        self.number = 0
        references = References((ALICE,), VECTORS[:1], MODEL)
        stages = pipeline.Stages(
            camera=None,  # type: ignore[arg-type]
            change=ChangeTest(WHOLE, min_face_px=80, hold_ns=ALWAYS_NS),
            cadence=self.cadence,
            detector=self.detector,  # type: ignore[arg-type]
            second_try=SecondTry(),
            tracker=Tracker(),
            gate=ZoneGate(zone="door", polygon=DOOR, limits=FaceLimits(60, 25.0)),
            embedder=embedder,  # type: ignore[arg-type]
            references=lambda: references,
            decider=Decider(POLICY),
            liveness=UncheckedLiveness(),
            presence=Presence(),
            record=self._record,
            enrol=lambda frame, tracks: False,
            enrolling=lambda: False,
            read=lambda frame: None,
            acting=lambda admitted: self.admitted.append(self.number) if admitted else None,
            times=StageTimes(pipeline.STAGES),
        )
        self.stages = replace(stages, **changes)
        for self.number in range(len(faces)):
            at_ns = round((self.number + 1) * SECOND / fps)
            with Frame(self.number, at_ns, np.zeros((240, 320, 3), np.uint8), PICTURE) as frame:
                pipeline.process(self.stages, frame)

    def _record(self, outcome: Match | PresenceChange) -> None:
        if isinstance(outcome, Match):
            self.matched.append(self.number)
        elif outcome.state == "left":
            self.left.append(self.number)


def spared(played: Played) -> list[int]:
    return sorted(set(range(len(played.detector.faces))) - set(played.detector.looked))


def test_who_was_matched_and_stays_is_looked_at_in_every_other_frame() -> None:
    played = Played([[face(320)]] * 10 * FPS)
    assert len(played.matched) == 1
    after = [number for number in spared(played) if number > played.matched[0]]
    assert len(after) > 0.4 * (10 * FPS - played.matched[0])
    assert played.cadence.spared == len(spared(played))


def test_who_rests_after_an_attempt_that_failed_is_looked_at_in_every_other_frame() -> None:
    played = Played([[face(320)]] * 10 * FPS, vector=VECTORS[1])
    assert not played.matched
    assert len(spared(played)) > 0.3 * 10 * FPS


def test_the_frame_that_ends_the_dwell_time_is_looked_at_and_so_is_each_that_a_crop_is_due_in() -> None:
    every, some = (Played([[face(320)]] * 3 * FPS, every_frame=way) for way in (True, False))
    assert some.admitted[0] == every.admitted[0]
    assert some.matched == every.matched
    assert 0 in some.detector.looked, "who is new is looked at twice"
    assert 1 in some.detector.looked


@pytest.mark.parametrize("way", [True, False])
def test_who_was_matched_is_told_to_have_left_when_nothing_is_looked_at(way: bool) -> None:
    """Also: an enrolment is shown, and a pause learnt of, in frames in which nothing changed."""
    shown: list[int] = []
    asked: list[int] = []

    def enrol(frame: Frame, tracks: object) -> bool:
        del tracks
        shown.append(frame.number)
        return False

    def references() -> References:
        asked.append(1)
        return References((ALICE,), VECTORS[:1], MODEL)

    quiet = ChangeTest(WHOLE, min_face_px=80) if way else ChangeTest(WHOLE, min_face_px=80, hold_ns=ALWAYS_NS)
    faces = [[face(320)]] * 2 * FPS + [[]] * 12 * FPS
    presence = Presence(hold_ns=10 * SECOND)
    played = Played(faces, change=quiet, enrol=enrol, references=references, presence=presence)
    assert (quiet.skipped > 8 * FPS) is way
    (left,) = played.left
    assert 2 * FPS + 8 < left < 13 * FPS
    gaps = np.diff([number for number in shown if number >= 4 * FPS])
    assert gaps.max() == (1 if way else 2)
    assert len(asked) >= (10 * FPS if way else 6 * FPS)


def test_no_two_frames_are_spared_in_a_row_whoever_says_that_they_may_be() -> None:
    cadence = Cadence()
    spared = [cadence.spares(number * SECOND // FPS, free=True) for number in range(1, 41)]
    assert sum(spared) == 20
    assert not any(one and other for one, other in pairwise(spared))


def test_frames_are_never_spared_twice_in_a_row() -> None:
    played = Played([[face(100 + 5 * (n % 3)), face(320)] for n in range(12 * FPS)])
    gaps = np.diff(played.detector.looked)
    assert gaps.max() == 2


@pytest.mark.parametrize("vector", [VECTORS[0], VECTORS[1]], ids=["enrolled", "stranger"])
def test_crops_come_when_they_would_have_come(vector: np.ndarray) -> None:
    """Also of somebody who stands outside of the zone for long first."""
    faces = [[face(60)]] * 31 + [[face(320)]] * 8 * FPS
    every, some = (Played(faces, vector=vector, every_frame=way) for way in (True, False))
    assert 0 <= some.admitted[0] - every.admitted[0] <= 1
    assert len(every.matched) == len(some.matched)
    assert all(0 <= late - soon <= 1 for soon, late in zip(every.matched, some.matched, strict=True))
    assert spared(every) == []
    assert len(spared(some)) > FPS


@pytest.mark.parametrize("fps", [5, 10, 13])
def test_each_frame_of_a_slow_camera_is_looked_at(fps: float) -> None:
    assert spared(Played([[face(320)]] * 100, fps=fps)) == []
    assert 2 * SECOND / fps > LONGEST_GAP_NS


@pytest.mark.parametrize("fps", [15, 25, 30])
def test_no_faster_camera_has_longer_gaps(fps: float) -> None:
    played = Played([[face(320)]] * round(6 * fps), fps=fps)
    assert spared(played)
    assert np.diff(played.detector.looked).max() == 2


def test_who_walks_past_is_looked_at_in_every_other_frame_and_at_the_door_or_running_in_each() -> None:
    """A face of 100 pixels; the zone is from 160 to 480."""
    steps = [[face(20 + 14 * n)] for n in range(10)], [[face(300 + 17 * n)] for n in range(10)]
    assert spared(Played(steps[0])) == [2, 4, 6, 8]
    assert spared(Played(steps[1])) == []
    assert spared(Played([[face(10 + (WALK_SHIFT + 0.01) * 100 * n)] for n in range(5)])) == []
    growing = [[face(80, size=60 * (WALK_GROWTH + 0.01) ** n)] for n in range(6)]
    assert spared(Played(growing)) == []
    two = [[face(20 + 14 * n), face(320 + 17 * (n % 2))] for n in range(10)]  # somebody else moves at the door
    assert spared(Played(two)) == []


def test_who_walks_is_not_taken_to_run_because_a_frame_was_spared() -> None:
    """A quarter of the face's width in a frame, and half of it between two looks."""
    assert spared(Played([[face(-60 + 25 * n)] for n in range(8)])) == [2, 4, 6]


def test_who_was_matched_and_moves_at_the_door_is_looked_at_in_every_other_frame() -> None:
    moving = [face(300 + 17 * (n % 2)) for n in range(3 * FPS)]
    stays = [[face(320)]] * 3 * FPS
    played = Played(stays + [[one] for one in moving])
    (matched,) = played.matched
    assert matched < len(stays)
    assert len([number for number in spared(played) if number >= len(stays)]) > len(moving) / 3
    with_a_stranger = Played(stays + [[one, face(400)] for one in moving[:9]])  # whose time at the door begins
    assert [number for number in spared(with_a_stranger) if number > len(stays)] == []


def test_where_something_stirs_and_nobody_is_found_every_other_frame_is_looked_at() -> None:
    played = Played([[]] * 40)
    assert np.diff(played.detector.looked).max() == 2
    assert len(spared(played)) == 20
    for comes in (20, 21):
        faces = [[]] * comes + [[face(320)]] * 2 * FPS
        every, some = (Played(faces, every_frame=way) for way in (True, False))
        assert 0 <= some.admitted[0] - every.admitted[0] <= 1
        assert 0 <= some.matched[0] - every.matched[0] <= 1
    gate = ButtonGate(zone="bell", limits=FaceLimits(60, 25.0))
    gate.open_window(0, 7 * SECOND)
    assert spared(Played([[]] * 40, gate=gate)) == []


def test_who_is_hidden_at_the_door_is_looked_for_in_each_frame_and_elsewhere_in_every_other() -> None:
    at_the_door, elsewhere = (Played([[face(x)]] * 5 + [[]] * 4 + [[face(x)]] * 3).detector.looked for x in (320, 100))
    assert set(range(5, 10)) <= set(at_the_door)
    assert np.diff(elsewhere).max() == 2
    assert len(elsewhere) < len(at_the_door)


def test_who_is_new_is_looked_at_twice() -> None:
    looked = Played([[face(100)]] * 9).detector.looked
    assert looked[:3] == [0, 1, 3]


def test_nothing_is_spared_while_a_challenge_runs_an_act_waits_or_recognition_pauses() -> None:
    faces = [[face(320)]] * 6 * FPS

    class Watching(UncheckedLiveness):
        watched = 0  # type: ignore[assignment]

    assert spared(Played(faces, liveness=Watching())) == []
    assert spared(Played(faces, references=lambda: NOBODY)) == []
    assert spared(Played(faces, enrolling=lambda: True)) == []
    gate = ButtonGate(zone="bell", limits=FaceLimits(60, 25.0))
    gate.open_window(0, 7 * SECOND)
    assert spared(Played(faces, gate=gate)) == []


@pytest.mark.parametrize("cut", range(30, 36))
def test_a_pause_forgets_faces_in_the_very_frame(cut: int) -> None:
    numbers: list[int] = []

    def references() -> References:
        return NOBODY if played_number() >= cut else References((ALICE,), VECTORS[:1], MODEL)

    def played_number() -> int:
        return len(numbers) - 1

    def enrolling() -> bool:  # asked once a frame, first of all
        numbers.append(len(numbers))
        return False

    played = Played([[face(320)]] * (cut + 1), references=references, enrolling=enrolling)
    assert played_number() == cut
    assert not len(played.stages.decider._probes)


def test_a_configuration_that_looks_always_spares_nothing() -> None:
    cadence = Cadence(every_frame=True)
    assert not any(cadence.spares(number * SECOND // 30, free=True) for number in range(90))


@settings(max_examples=40, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_whatever_people_do_the_first_match_comes_one_frame_later_at_most(data: st.DataObject) -> None:
    """People come, stand, turn to another place, are hidden for a moment and go, in any order."""
    faces: list[list[Face]] = []
    x = 60.0
    for _ in range(data.draw(st.integers(2, 6))):
        target = data.draw(st.sampled_from([60.0, 120.0, 320.0, 330.0, 580.0]))
        frames = data.draw(st.integers(2, 20))
        faces += [[face(x + (target - x) * (n + 1) / frames)] for n in range(frames)]
        x = target
        faces += [[face(x)]] * data.draw(st.integers(1, 40))
        faces += [[]] * data.draw(st.sampled_from([0, 0, 1, 3, 12]))
    every, some = (Played(faces, every_frame=way) for way in (True, False))
    inside = [
        number for number, seen in enumerate(faces) if any(160 < (one.box[0] + one.box[2]) / 2 < 480 for one in seen)
    ]
    # Who leaves the zone right after the frame that matches them has no later one.
    if every.matched and every.matched[0] + 1 in inside:
        assert some.matched[0] - every.matched[0] <= 1


@pytest.mark.skipif(bool(os.environ.get("POSTERN_NO_MODELS")), reason="without models")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["somebody walks in and stands", "a statue that turns its head", "a noisy picture"])
def test_in_drawn_scenes_nobody_is_lost_and_nobody_matched_later(name: str) -> None:
    script = msgspec.structs.replace(SCENES[name], frames_per_second=FPS)
    detector, renderer = load_detector(MODELS / "manifest.yaml", "detector-320x240"), SceneRenderer(script)
    faces = []
    for number in range(script.frame_count):
        main = RgbPicture(renderer.frame(number))
        lores = main.shrunk((0, 0, main.width, main.height), (320, 240))
        faces.append(detector.detect(Frame(number, round((number + 1) * SECOND / FPS), lores, main), exact=False))
    every, some = (Played(faces, every_frame=way) for way in (True, False))
    assert every.matched, "there was somebody to match"
    assert [abs(late - soon) <= 1 for soon, late in zip(every.matched, some.matched, strict=True)] == [True]
    assert 0 <= some.admitted[0] - every.admitted[0] <= 1
    assert spared(some)


def test_who_is_hidden_is_forgotten_as_soon_as_if_each_frame_had_been_looked_at() -> None:
    for hidden in range(1, 9):
        every, some = Tracker(), Tracker()
        for number in range(40):
            here = [] if 20 <= number < 20 + hidden else [face(320)]
            every.update(here, number * SECOND // FPS)
            if number == 20:  # the first of them is not looked at
                some.unseen()
            else:
                some.update(here, number * SECOND // FPS)
        (one,), (other,) = (tracker.update([face(320)], 40 * SECOND // FPS) for tracker in (every, some))
        assert one.first_seen_ns == other.first_seen_ns, hidden
