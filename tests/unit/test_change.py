# SPDX-License-Identifier: Apache-2.0
"""An empty scene costs a look, and nobody is lost by it: who acts is admitted as if every frame were looked at."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import SceneScript, parse_script
from agent.detect.change import HEARTBEAT_NS, HOLD_NS, ChangeTest, part_of
from agent.detect.detector import load_detector
from agent.detect.gate import FaceLimits, ZoneGate
from agent.detect.track import Tracker
from agent.detect.view import WHOLE

MANIFEST = Path(__file__).parents[2] / "models" / "manifest.yaml"
DOOR = ((0.25, 0.1), (0.75, 0.1), (0.75, 0.9), (0.25, 0.9))
LEAST_PX = 60
FPS = 15
SLOW = 10  # frames a second: so far apart that each is compared
SECOND = 1_000_000_000
pytestmark = pytest.mark.timeout(300)


def scene(*people: dict[str, Any], **changes: Any) -> SceneScript:
    script = {
        "size": [640, 360],
        "frames_per_second": FPS,
        "duration": 7,
        "seed": 2,
        "background": {"kind": "room", "variant": 11},
        "people": [{"who": "person-01", **one} for one in people],
        **changes,
    }
    return parse_script(yaml.safe_dump(script).encode(), Path("scene.yaml"))


def at(time: float, x: float, y: float = 165, face: float = 90) -> dict[str, float]:
    return {"at": time, "x": x, "y": y, "face": face}


STANDS = {"appears": 2.5, "leaves": 6, "path": [at(0, 320)]}
WALKS = {"appears": 2, "leaves": 6, "path": [at(2, -60), at(4, 320)]}
SCENES = {
    "somebody stands there": scene(STANDS),
    "somebody walks in and stands": scene(WALKS),
    "a statue that turns its head": scene(
        {**STANDS, "appears": 1, "sway": 0, "pose": [{"at": 1, "yaw": 45}, {"at": 3, "yaw": 45}, {"at": 3.5, "yaw": 0}]}
    ),
    "somebody comes nearer very slowly": scene({"sway": 0, "path": [at(0, 320, face=24), at(8, 320, face=100)]}),
    "a dark coat before a dark door": scene(
        {**WALKS, "coat": "#14161a"}, background={"kind": "plain", "colour": "#1c1e22"}
    ),
    "little light": scene({**WALKS, "coat": "#14161a"}, light=[{"at": 0, "gain": 0.15}]),
    "light that fades": scene(STANDS, light=[{"at": 0, "gain": 1}, {"at": 9, "gain": 0.4}]),
    "rain": scene(WALKS, disturbances=[{"kind": "rain", "drops": 20}]),
    "an insect": scene(WALKS, disturbances=[{"kind": "insect", "size": 6}]),
    "lamps that flicker": scene(WALKS, disturbances=[{"kind": "flicker"}]),
    "a flag beside the zone": scene(WALKS, disturbances=[{"kind": "flag", "box": [560, 30, 635, 120]}]),
    "a flag in the zone": scene(WALKS, disturbances=[{"kind": "flag", "box": [360, 30, 450, 120]}]),
    "a noisy picture": scene(WALKS, noise=8),
}
# Where nothing but light changes beside the person, most frames without one are skipped.
CALM = ("somebody stands there", "somebody walks in and stands", "lamps that flicker", "a flag beside the zone")


def frames(script: SceneScript) -> list[Frame]:
    renderer = SceneRenderer(script)
    made = []
    for number in range(script.frame_count):
        main = RgbPicture(renderer.frame(number))
        lores = main.shrunk((0, 0, main.width, main.height), (320, 240))
        made.append(Frame(number, round(number * SECOND / FPS), lores, main))
    return made


@pytest.mark.skipif(bool(os.environ.get("POSTERN_NO_MODELS")), reason="without models")
@pytest.mark.parametrize("name", SCENES)
def test_no_person_is_lost_by_a_frame_that_is_skipped(name: str) -> None:
    detector, change = load_detector(MANIFEST, "detector-320x240"), ChangeTest(part_of(DOOR), min_face_px=LEAST_PX)
    admitted: dict[str, list[int]] = {"every frame": [], "changes": []}
    parts = {way: (Tracker(), ZoneGate(zone="door", polygon=DOOR, limits=FaceLimits(LEAST_PX, 25))) for way in admitted}
    empty = missed = 0
    for frame in frames(SCENES[name]):
        faces = detector.detect(frame, exact=False)
        due = change.is_due(frame, busy=parts["changes"][0].following)
        in_zone = [one for one in faces if 160 < (one.box[0] + one.box[2]) / 2 < 480 and one.width >= LEAST_PX]
        missed += bool(in_zone) and not due
        empty += not faces
        for way, (tracker, gate) in parts.items():
            seen = faces if due or way == "every frame" else []
            tracks, now_ns = tracker.update(seen, frame.timestamp_ns), frame.timestamp_ns
            if gate.admit(tracks, frame_width=640, frame_height=360, timestamp_ns=now_ns):
                admitted[way].append(frame.number)
    assert missed == 0
    assert admitted["every frame"], "there was somebody to admit"
    assert 0 <= admitted["changes"][0] - admitted["every frame"][0] <= 1
    assert len(admitted["changes"]) >= len(admitted["every frame"]) - 1
    if name in CALM:
        assert change.skipped >= empty / 3


GRAIN = np.random.default_rng(0).standard_normal((424, 704, 3), np.float32)  # each picture shows another part of it


def still(number: int, picture: np.ndarray, *, noise: int = 2) -> Frame:
    y, x = np.random.default_rng(number).integers(0, 64, 2)
    seen = picture + noise * GRAIN[y : y + picture.shape[0], x : x + picture.shape[1]]
    np.clip(seen, 0, 255, out=seen)
    seen = seen.astype(np.uint8)
    return Frame(number, number * SECOND // SLOW, np.zeros((240, 320, 3), np.uint8), RgbPicture(seen))


WALL = np.full((360, 640, 3), 120, np.int16)


def test_an_empty_scene_is_looked_at_once_a_second() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    due = [number for number in range(60) if change.is_due(still(number, WALL), busy=False)]
    settled = HOLD_NS * SLOW // SECOND
    assert due[: settled + 1] == list(range(settled + 1))
    assert np.diff(due[settled:]).tolist() == [HEARTBEAT_NS * SLOW // SECOND] * 5
    assert (change.looked, change.skipped) == (len(due), 60 - len(due))


@pytest.mark.parametrize("number", [20, 21])
def test_nothing_is_skipped_while_somebody_is_followed_or_acts(number: int) -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for before in range(number):
        change.is_due(still(before, WALL), busy=False)
    assert all(change.is_due(still(number + n, WALL), busy=True) for n in range(30))


def test_what_changed_in_one_place_is_looked_at_and_for_some_time_after() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for number in range(21):
        change.is_due(still(number, WALL), busy=False)
    changed = WALL.copy()
    changed[100:140, 300:340] += 12
    hold = HOLD_NS * SLOW // SECOND
    assert [change.is_due(still(21 + n, changed), busy=False) for n in range(hold + 2)] == [True] * (hold + 1) + [False]


def test_changes_that_are_each_too_small_add_up() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for number in range(26):
        change.is_due(still(number, WALL), busy=False)
    due = []  # before the next look that comes anyway, with frame 35
    for n in range(9):
        creeping = WALL.copy()
        creeping[100:140, 300:340] += n  # a grey level a frame
        due.append(change.is_due(still(26 + n, creeping), busy=False))
    assert any(due[2:6])


def test_what_moves_outside_of_the_zone_is_not_looked_at() -> None:
    change = ChangeTest((0.25, 0.1, 0.5, 0.9), min_face_px=80)
    for number in range(21):
        change.is_due(still(number, WALL), busy=False)
    moved = WALL.copy()
    moved[:, 560:] += 60
    assert not change.is_due(still(21, moved), busy=False)
    moved[:, 330:360] += 60  # a face that stands on its edge reaches out of the zone
    assert change.is_due(still(22, moved), busy=False)


@pytest.mark.parametrize("gain", [0.8, 1.3])
def test_light_of_a_row_that_changes_as_a_whole_is_nobody(gain: float) -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    wall = WALL.copy()
    wall[:, 200:300] = 40  # a dark door before a bright wall
    for number in range(21):
        change.is_due(still(number, wall), busy=False)
    lit = wall.copy()
    lit[120:] = (lit[120:] * gain).astype(np.int16)
    assert not change.is_due(still(21, lit), busy=False)


def test_light_that_goes_out_is_looked_at() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for number in range(21):
        change.is_due(still(number, WALL), busy=False)
    assert change.is_due(still(21, WALL // 3), busy=False)


def test_time_that_goes_back_and_another_size_of_picture_are_looked_at() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for number in range(21):
        change.is_due(still(number, WALL), busy=False)
    assert change.is_due(still(21, WALL[:180, :320]), busy=False)
    assert change.is_due(still(3, WALL), busy=False)


def test_a_clock_that_goes_back_does_not_end_the_looks_until_its_time_has_come_again() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    for number in range(60):
        change.is_due(still(number, WALL), busy=False)
    due = [number for number in range(20, 40) if change.is_due(still(number, WALL), busy=False)]
    assert due[0] == 20, "an hour might be missing"
    assert max(np.diff(due)) <= HEARTBEAT_NS * SLOW // SECOND


def test_what_is_kept_is_coarse_and_overwritten_once_somebody_is_there() -> None:
    change = ChangeTest(WHOLE, min_face_px=80)
    change.is_due(still(0, WALL), busy=False)
    kept = change._seen
    assert kept is not None
    assert kept.shape == (22, 40), "a fifth of the smallest face a block"
    change.is_due(still(1, WALL), busy=True)
    assert not kept.any()


@pytest.mark.parametrize("size", [(16, 16), (160, 17), (17, 160), (31, 31)])
@pytest.mark.parametrize("least_px", [32, 160, 2000])
def test_a_stream_that_shrinks_to_less_than_a_block_ends_no_unit(size: tuple[int, int], least_px: int) -> None:
    """As a network camera may at any moment: every such frame is looked at."""
    test, detector = ChangeTest(part_of(DOOR), min_face_px=least_px), load_detector(MANIFEST, "detector-320x240")
    wide = RgbPicture(np.zeros((360, 640, 3), np.uint8))
    small = RgbPicture(np.zeros((size[1], size[0], 3), np.uint8))
    for number in range(40):
        test.is_due(Frame(number, number * SECOND // FPS, wide.array, wide), busy=False)
    for number in range(40, 60):
        frame = Frame(number, number * SECOND // FPS, small.array, small)
        due = test.is_due(frame, busy=False)
        assert due or least_px == 32
        assert not (due and detector.detect(frame, exact=False))


@pytest.mark.parametrize("times", ["frozen", "backwards", "leaping"])
def test_a_face_is_looked_at_one_frame_later_at_most_whatever_a_camera_says_of_the_time(times: str) -> None:
    random = np.random.default_rng(5)
    empty = np.kron(random.integers(60, 180, (12, 16)), np.ones((20, 20))).astype(np.uint8)[:, :, None].repeat(3, 2)
    yy, xx = np.mgrid[:240, :320]
    somebody = empty.copy()
    somebody[((yy - 120) / 38) ** 2 + ((xx - 160) / 30) ** 2 < 1] += 10
    test, now_ns = ChangeTest(WHOLE, min_face_px=LEAST_PX), SECOND
    for number in range(60):
        if number < 20 or times != "frozen":
            now_ns += SECOND // FPS
        if number == 40:
            now_ns += {"frozen": 0, "backwards": -SECOND // 2, "leaping": 10_000 * SECOND}[times]
        test.is_due(Frame(number, now_ns, empty, RgbPicture(empty)), busy=False)
    due = []
    for number in (60, 61):
        now_ns += 0 if times == "frozen" else SECOND // FPS
        due.append(test.is_due(Frame(number, now_ns, somebody, RgbPicture(somebody)), busy=False))
    assert due[1]
    assert due[0] or times != "frozen"


class Counted(RgbPicture):
    """Says how often its brightness was asked for."""

    read = 0

    def luma(self, box: tuple[int, int, int, int], step: int) -> np.ndarray:
        Counted.read += 1
        return super().luma(box, step)


def test_at_an_empty_door_every_other_frame_is_compared_and_each_from_the_first_that_differs() -> None:
    test, shown = ChangeTest(WHOLE, min_face_px=80), {}
    bright = WALL.copy()
    bright[100:200, 300:400] += 60
    for number in range(12 * FPS):
        before = Counted.read
        picture = WALL if number < 10 * FPS else bright
        frame = Frame(
            number, number * SECOND // FPS, np.zeros((240, 320, 3), np.uint8), Counted(picture.astype(np.uint8))
        )
        due = test.is_due(frame, busy=False)
        shown[number] = (Counted.read > before, due)
    calm = [shown[number][0] for number in range(FPS, 10 * FPS)]
    assert 0.45 < sum(calm) / len(calm) < 0.55
    assert all(one or other for one, other in pairwise(calm)), "two in a row are never left out"
    first = next(number for number in range(10 * FPS, 12 * FPS) if shown[number][1])
    assert first - 10 * FPS <= 1
    assert all(shown[number] == (True, True) for number in range(first, first + HOLD_NS * FPS // SECOND))


@pytest.mark.parametrize("min_face_px", [40, 63, 80, 104, 160])
@pytest.mark.parametrize("fill", [None, 255, 0])
def test_means_of_blocks_are_those_of_their_pixels(min_face_px: int, fill: int | None) -> None:
    rng = np.random.default_rng(min_face_px)
    picture = rng.integers(0, 256, (355, 517, 3), dtype=np.uint8)
    if fill is not None:
        picture[:] = fill
    test = ChangeTest(WHOLE, min_face_px=min_face_px)
    block = min(max(min_face_px // 5 // 4 * 4, 8), 32)
    read = picture[:: block // 4, : 517 // block * block, 1].astype(float)
    read = read[: len(read) // 4 * 4].reshape(len(read) // 4, 4, -1, block)
    np.testing.assert_allclose(test._blocks(RgbPicture(picture)), read.mean((1, 3)), rtol=1e-5)
