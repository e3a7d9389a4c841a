# SPDX-License-Identifier: Apache-2.0
"""What the console is told of a frame: whole numbers and words, each by its own rule."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from agent.camera.base import Frame, RgbPicture
from agent.clock import SimulatedClock
from agent.detect.cover import MAX_SIDE
from agent.detect.detector import Detector, load_detector
from agent.detect.face import Face
from agent.detect.pose import head_pose
from agent.detect.track import Track
from agent.unit.watching import MAX_FACES, RATE_NS, RESTS, SLOW_NS, WATCHED_NS, Watching
from tests.simulators.config import configured, example
from tests.simulators.heads import face
from tests.unit.test_console_desk import look_at

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 1280, 720
STEP = 100_000_000  # ns from frame to frame


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(ROOT / "models" / "manifest.yaml", "detector-320x240")


class Watched:
    """A console that looks at a scene of plain pictures in which faces are said to be."""

    def __init__(self, detector: Detector, activation: dict[str, Any] | None = None) -> None:
        zone = {**example()["activation"], "min_face_px": 80, "max_turn_degrees": 20.0}
        self.clock = SimulatedClock()
        self.watching = Watching(configured(activation=activation or zone), detector, self.clock)
        self.now_ns = 0

    def frame(self, level: int | np.ndarray = 120) -> Frame:
        picture = np.full((HEIGHT, WIDTH, 3), level, np.uint8) if isinstance(level, int) else level
        rgb = RgbPicture(picture)
        self.now_ns += STEP
        return Frame(0, self.now_ns, rgb.shrunk((0, 0, WIDTH, HEIGHT), (320, 240)), rgb)

    def seen(self, *faces: Face, level: int | np.ndarray = 120, frames: int = 8, **offered: bool) -> dict[str, Any]:
        """What is seen in the last of ``frames`` in which these stood still."""
        self.watching.take(0.0)  # somebody looks already
        for _ in range(frames - 1):
            self.watching.offer(self.frame(level), self._tracks(faces), **offered)
        tracks = self._tracks(faces)
        return look_at(self.watching, self.frame(level), *tracks, **offered)

    def _tracks(self, faces: Sequence[Face]) -> list[Track]:
        return [Track(at, one, 0, self.now_ns) for at, one in enumerate(faces)]


def test_a_picture_is_told_with_its_size_its_light_and_the_zone(detector: Detector) -> None:
    watched = Watched(detector)
    seen = watched.seen()
    assert set(seen) == {"width", "height", "rgb", "camera", "light", "light_advice", "zone", "faces"}
    pixels = np.frombuffer(base64.b64decode(seen["rgb"]), np.uint8).reshape(seen["height"], seen["width"], 3)
    assert max(pixels.shape) == MAX_SIDE
    assert seen["camera"]["width"] == WIDTH
    assert seen["camera"]["height"] == HEIGHT
    assert seen["zone"] == tuple((round(x * 1000), round(y * 1000)) for x, y in example()["activation"]["polygon"])
    assert seen["faces"] == []
    assert Watched(detector, {"kind": "button", "name": "door"}).seen()["zone"] is None


@pytest.mark.parametrize(
    ("level", "said"), [(39, "too dark"), (40, ""), (120, ""), (220, ""), (221, "too bright"), (255, "too bright")]
)
def test_light_is_told_in_hundredths_with_what_is_wrong_with_it(detector: Detector, level: int, said: str) -> None:
    seen = Watched(detector).seen(level=level, frames=1)
    assert (seen["light"], seen["light_advice"]) == (round(level * 100 / 255), said), "of the picture, not its border"


def test_a_face_is_told_in_whole_numbers_and_words(detector: Detector) -> None:
    watched = Watched(detector)
    shown = face(640, 360, 200, yaw=12.0)
    (told,) = watched.seen(shown)["faces"]
    corners = shown.landmarks.tolist()
    assert told == {
        "box": [
            [round(540 * 1000 / WIDTH), round(260 * 1000 / HEIGHT)],
            [round(740 * 1000 / WIDTH), round(460 * 1000 / HEIGHT)],
        ],
        "points": [[round(x * 1000 / WIDTH), round(y * 1000 / HEIGHT)] for x, y in corners],
        "px": 200,
        "turn": round(head_pose(shown.landmarks).turn),
        "light": round(120 * 100 / 255),
        "light_advice": "",
        "sharp": False,  # a plain grey has no edge
        "accepted": True,
        "why": "accepted here",
    }


@pytest.mark.parametrize(("level", "said"), [(49, "too dark"), (50, ""), (215, ""), (216, "too bright")])
def test_the_light_on_a_face_is_judged_as_at_enrolment(detector: Detector, level: int, said: str) -> None:
    (told,) = Watched(detector).seen(face(640, 360, 200), level=level)["faces"]
    assert (told["light"], told["light_advice"]) == (round(level * 100 / 255), said)


def test_light_and_sharpness_are_of_the_face_alone(detector: Detector) -> None:
    picture = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    picture[260:460:8, 540:740] = picture[260:460, 540:740:8] = 200  # edges on the face, and nowhere else
    watched = Watched(detector)
    told = watched.seen(face(640, 360, 200), face(200, 200, 120), level=picture)["faces"]
    assert [one["sharp"] for one in told] == [True, False]
    assert told[0]["light"] > told[1]["light"] == round(120 * 100 / 255)


def test_a_face_beyond_the_edge_is_told_by_what_is_in_the_picture(detector: Detector) -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:100, :100] = 200
    watched = Watched(detector)
    at_corner, beyond, one_pixel = face(0, 0, 200), face(-150, 100, 200), face(-99, 400, 200)
    told = {tuple(one["box"][0]): one for one in watched.seen(at_corner, beyond, one_pixel, level=picture)["faces"]}
    corner = told[round(-100 * 1000 / WIDTH), round(-100 * 1000 / HEIGHT)]
    assert corner["light"] == round(200 * 100 / 255), "of the quarter that is seen"
    gone = told[round(-250 * 1000 / WIDTH), 0]
    assert (gone["light"], gone["light_advice"], gone["sharp"]) == (0, "too dark", True)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (face(640, 360, 79), "too small: come nearer than this, 80 px are needed"),
        (face(640, 360, 120, yaw=60.0), "turned away: 20 degrees are allowed"),
        (face(60, 60, 100), "outside the zone"),
    ],
)
def test_why_a_face_is_not_accepted_is_told(detector: Detector, one: Face, why: str) -> None:
    (told,) = Watched(detector).seen(one)["faces"]
    assert (told["accepted"], told["why"]) == (False, why)


def test_before_the_dwell_is_over_it_is_told_to_stay_and_at_a_button_who_is_nearest(detector: Detector) -> None:
    (told,) = Watched(detector).seen(face(640, 360, 200), frames=1)["faces"]
    assert (told["accepted"], told["why"]) == (False, "good, stay for a moment")
    button = {"kind": "button", "name": "door", "min_face_px": 80}
    near, far = Watched(detector, button).seen(face(640, 360, 200), face(300, 360, 100), frames=1)["faces"]
    assert (near["accepted"], near["why"]) == (True, "accepted here"), "as if the button were pressed"
    assert (far["accepted"], far["why"]) == (False, "somebody else is nearer")


def test_the_nearest_eight_are_told_of_the_nearest_first(detector: Detector) -> None:
    sizes = [60, 100, 80, 90, 120, 70, 110, 65, 130, 85]
    told = Watched(detector).seen(*(face(100 + 110 * at, 300, size) for at, size in enumerate(sizes)), frames=1)
    assert [one["px"] for one in told["faces"]] == sorted(sizes, reverse=True)[:MAX_FACES]


def test_the_frame_rate_is_of_the_last_two_seconds(detector: Detector) -> None:
    watched = Watched(detector)
    assert watched.seen(frames=RATE_NS // STEP - 1)["camera"]["frames_per_second"] == 0, "not known yet"
    assert watched.seen(frames=1)["camera"]["frames_per_second"] == 10
    watched.now_ns += STEP  # every second one is lost
    for _ in range(RATE_NS // STEP // 2):
        seen = watched.seen(frames=1)
        watched.now_ns += STEP
    assert seen["camera"]["frames_per_second"] == 5
    watched.now_ns += 2 * RATE_NS  # a camera that stood still
    assert watched.seen(frames=1)["camera"]["frames_per_second"] == 5, "what it was"
    assert watched.seen(frames=RATE_NS // STEP)["camera"]["frames_per_second"] == 10


def test_nothing_is_looked_at_unless_somebody_asked_in_the_last_seconds(detector: Detector) -> None:
    watched = Watched(detector)
    watching = watched.watching
    assert not watching.watched
    assert watching.take(0.0) is None
    assert watching.watched
    watched.clock.advance(WATCHED_NS / 1e9 - 0.001)
    assert watching.watched
    watched.clock.advance(0.001)
    assert not watching.watched
    watching.offer(cast("Frame", None), [])  # not even opened
    watching.close()
    assert watching.take(60.0) is None, "no frame comes any more, and nobody waits for one"


@pytest.mark.parametrize(("look_ns", "rests"), [(SLOW_NS - 1, False), (SLOW_NS, True)])
def test_the_picture_rests_while_captures_are_taken_where_a_look_takes_a_quarter_of_a_second_or_more(
    detector: Detector, look_ns: int, *, rests: bool
) -> None:
    watched = Watched(detector)
    watched.seen(frames=1)
    watched.watching._look_ns = look_ns
    seen = watched.seen(frames=1, capturing=True)
    assert (seen == {"waiting": RESTS}) == rests
