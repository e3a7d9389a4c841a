# SPDX-License-Identifier: Apache-2.0
"""The simulated camera: the same bytes each time, everybody where the script says, on any clock."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.camera.base import LORES_BORDER, Camera, Rgb, lores_fit
from agent.camera.scene.camera import SceneCamera
from agent.camera.scene.figure import placed
from agent.camera.scene.motion import eased, placements
from agent.camera.scene.pose import frontal
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import SceneScript
from agent.camera.scene.sheet import on_sheet
from agent.clock import SimulatedClock
from tools.lib.enrolment_scene import enrolment_script

PLAIN = {"kind": "plain", "colour": "#808080"}


def scene(**changes: object) -> SceneScript:
    person = {
        "who": "person-01",
        "path": [{"at": 0, "x": 60, "y": 40, "face": 40}, {"at": 1, "x": 90, "y": 40, "face": 48}],
        "pose": [{"at": 0, "yaw": 15, "pitch": 5, "roll": 4}],
        "light": [{"at": 0, "gain": 0.9, "side": 0.3}],
        "covers": [{"kind": "glasses", "start": 0.5}],
    }
    fields = {"size": (160, 96), "frames_per_second": 8, "duration": 1, "background": PLAIN, "noise": 0}
    return msgspec.convert(fields | {"people": [person]} | changes, SceneScript)


def still(**changes: object) -> dict[str, object]:
    return {"who": "person-01", "path": [{"at": 0, "x": 80, "y": 44, "face": 40}], "sway": 0} | changes


def touched(frame: Rgb) -> tuple[int, int, int, int]:
    """Box of what is not background."""
    rows, columns = np.nonzero((frame.astype(int) - 128).__abs__().max(axis=2) > 4)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_the_same_script_gives_the_same_bytes() -> None:
    script = scene(noise=4, seed=7, background={"kind": "room", "variant": 2, "window": True})
    first, second = SceneRenderer(script), SceneRenderer(script)
    in_order = [first.frame(number).tobytes() for number in range(script.frame_count)]
    backwards = [second.frame(number).tobytes() for number in reversed(range(script.frame_count))]
    assert in_order == backwards[::-1]
    assert len(set(in_order)) == len(in_order)


def test_another_process_gives_the_same_bytes() -> None:
    code = (
        "import hashlib; from agent.camera.scene.render import SceneRenderer;"
        "from tools.lib.enrolment_scene import enrolment_script as e;"
        "print(hashlib.sha256(SceneRenderer(e('person-02', size=(96, 64))).frame(9).tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = SceneRenderer(enrolment_script("person-02", size=(96, 64))).frame(9)
    assert run.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


def test_another_seed_gives_other_noise() -> None:
    frames = [SceneRenderer(scene(noise=3, seed=seed, people=[])).frame(0).astype(int) for seed in (1, 2)]
    assert not np.array_equal(*frames)
    assert np.std(frames[0]) == pytest.approx(3, abs=0.3)


def test_noise_never_wraps_around() -> None:
    for colour in ("#000000", "#ffffff"):
        background = {"kind": "plain", "colour": colour}
        frame = SceneRenderer(scene(noise=5, background=background, people=[])).frame(0)
        assert abs(int(frame.mean()) - int(colour[1:3], 16)) < 20


def test_people_appear_and_leave_when_told() -> None:
    script = scene(people=[still(appears=0.3, leaves=0.6)])
    present = [len(placements(script, number / 8)) for number in range(8)]
    assert present == [0, 0, 0, 1, 1, 0, 0, 0]
    renderer = SceneRenderer(script)
    assert np.ptp(renderer.frame(0)) == 0
    assert np.ptp(renderer.frame(4)) > 100


def test_a_person_stands_where_the_script_says() -> None:
    for x, face in ((50, 30), (100, 44)):
        frame = SceneRenderer(scene(people=[still(path=[{"at": 0, "x": x, "y": 44, "face": face}])])).frame(0)
        left, top, right, _ = touched(frame[:44])  # above the shoulders
        assert (left + right) / 2 == pytest.approx(x, abs=0.15 * face)
        assert 44 - top == pytest.approx(0.72 * face, abs=0.2 * face)


def test_a_person_half_outside_the_picture_is_cut_off() -> None:
    for x, y in ((0, 0), (160, 96), (-300, 40), (400, 400), (80, -200)):
        frame = SceneRenderer(scene(people=[still(path=[{"at": 0, "x": x, "y": y, "face": 40}])])).frame(0)
        assert frame.shape == (96, 160, 3)


@pytest.mark.parametrize("kind", ["mask", "glasses", "sunglasses", "hat", "hand"])
def test_a_cover_hides_part_of_the_face(kind: str) -> None:
    bare = SceneRenderer(scene(people=[still()])).frame(0)
    covered = SceneRenderer(scene(people=[still(covers=[{"kind": kind}])])).frame(0)
    assert np.mean(np.any(bare != covered, axis=2)) > 0.003


def test_blur_takes_the_edges_away() -> None:
    def sharpness(radius: float) -> float:
        frame = SceneRenderer(scene(people=[still(blur=[{"at": 0, "radius": radius}])])).frame(0).astype(float)
        return float(np.abs(np.diff(frame[20:60, 60:100], axis=1)).mean())

    assert sharpness(0) > 2 * sharpness(4)


def test_movement_blurs_along_its_direction() -> None:
    path = [{"at": 0, "x": 40, "y": 44, "face": 40}, {"at": 1, "x": 120, "y": 44, "face": 40}]
    frames = [
        SceneRenderer(scene(motion_blur=share, people=[still(path=path)])).frame(4).astype(float) for share in (0, 1)
    ]
    across = [np.abs(np.diff(frame[20:64], axis=1)).mean() for frame in frames]
    assert across[0] > 1.3 * across[1]


def test_low_light_and_backlight_darken_the_face() -> None:
    def face(**changes: object) -> float:
        return float(SceneRenderer(scene(people=[still()], **changes)).frame(0)[34:54, 70:90].mean())

    def wall(**changes: object) -> float:
        return float(SceneRenderer(scene(people=[still()], **changes)).frame(0)[:8, :8].mean())

    assert face(light=[{"at": 0, "gain": 0.2}]) < 0.4 * face()
    assert face(backlight=0.8) < 0.8 * face()
    assert wall(backlight=0.8) > 1.5 * wall()


def test_values_ease_between_keys_and_hold_outside() -> None:
    keys = [(1.0, (0.0, 10.0)), (3.0, (4.0, 20.0))]
    assert eased(keys, 0, ()) == (0, 10)
    assert eased(keys, 2, ()) == (2, 15)
    assert eased(keys, 1.2, ())[0] < 0.4 * 0.5
    assert eased(keys, 9, ()) == (4, 20)
    assert eased([], 1, (7.0,)) == (7.0,)


def test_a_turned_head_moves_its_nose_and_not_its_outline() -> None:
    axis = np.linspace(-50, 50, 101, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    for yaw, pitch, wanted in ((20.0, 0.0, (1, 0)), (-20.0, 0.0, (-1, 0)), (0.0, 15.0, (0, 1))):
        u, v = frontal(x, y, yaw, pitch)
        nearest = np.unravel_index(np.argmin(np.hypot(u - 0, v - 9)), u.shape)  # the nose tip, by the depth model
        moved = np.array([x[nearest] - 0, y[nearest] - 9])
        assert np.dot(moved, wanted) > 3


def test_the_camera_moves_a_simulated_clock_and_stamps_its_frames() -> None:
    clock = SimulatedClock()
    clock.advance(5)
    camera: Camera = SceneCamera(scene(), lores_size=(80, 64), clock=clock)
    with camera:
        stamps = []
        for frame in camera.frames():
            with frame:
                stamps.append(frame.timestamp_ns)
                assert clock.monotonic_ns() == frame.timestamp_ns
                assert (frame.main.width, frame.main.height) == (160, 96)
        assert stamps == [5_000_000_000 + 125_000_000 * number for number in range(8)]
        assert camera.info().live is False
        assert camera.info().frames_per_second == 8


def test_a_slow_consumer_loses_no_frame() -> None:
    clock = SimulatedClock()
    with SceneCamera(scene(), lores_size=(80, 48), clock=clock) as camera:
        numbers = []
        for frame in camera.frames():
            clock.advance(1)
            numbers.append(frame.number)
            frame.close()
    assert numbers == list(range(8))


def test_a_released_frame_is_gone() -> None:
    with SceneCamera(scene(), lores_size=(80, 48), clock=SimulatedClock()) as camera:
        frame = next(camera.frames())
        frame.close()
        with pytest.raises(ValueError, match="released"):
            _ = frame.main


def test_lores_is_the_whole_picture_top_left_and_grey_beside_it() -> None:
    for lores_size in ((80, 80), (200, 48)):
        with SceneCamera(
            scene(people=[], background={"kind": "gradient"}), lores_size=lores_size, clock=SimulatedClock()
        ) as camera:
            frame = next(camera.frames())
            width, height = lores_fit(160, 96, *lores_size)
            assert frame.lores.shape == (lores_size[1], lores_size[0], 3)
            assert np.all(frame.lores[height:] == LORES_BORDER)
            assert np.all(frame.lores[:, width:] == LORES_BORDER)
            main = frame.main.window(0, 0, 160, 96)
            assert frame.lores[:height, :width].mean() == pytest.approx(main.mean(), abs=1)
            assert int(frame.lores[0, 0, 0]) == pytest.approx(int(main[0, 0, 0]), abs=2)


def test_a_closed_camera_has_no_frames() -> None:
    camera = SceneCamera(scene(), lores_size=(80, 48), clock=SimulatedClock())
    with pytest.raises(ValueError, match="not open"):
        next(camera.frames())


def test_a_scene_becomes_a_video_of_as_many_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    script, out = tmp_path / "scene.yaml", tmp_path / "scene.mp4"
    script.write_text("size: [64, 48]\nframes_per_second: 5\nduration: 1\nbackground: {kind: gradient}\n")
    command = [sys.executable, "-m", "tools.lib.scene_to_video", str(script), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=50, cwd=Path(__file__).parents[2])
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert sum(1 for _ in container.decode(video=0)) == 5


def attacked(kind: str, *, yaw: float = 0.0, plays: float = 0.0) -> Rgb:
    """One frame of somebody who holds something before the camera."""
    attack: dict[str, object] = {"kind": kind}
    if plays:
        attack["plays"] = [{"at": 0, "yaw": plays}]
    person = {
        "who": "person-01",
        "path": [{"at": 0, "x": 160, "y": 110, "face": 90}],
        "pose": [{"at": 0, "yaw": yaw}],
        "attack": attack,
        "sway": 0,
    }
    scene = {"size": [320, 240], "duration": 1, "noise": 0, "people": [person]}
    return SceneRenderer(msgspec.convert(scene, SceneScript)).frame(0)


@pytest.mark.parametrize("kind", ["print", "bent", "tablet"])
def test_a_sheet_hides_what_is_behind_its_edges(kind: str) -> None:
    frame = attacked(kind)
    edge = frame[60, 85:235].astype(int)
    assert (edge.max() > 230) == (kind != "tablet"), "paper is white, a bezel black"
    assert frame[10, 160].tolist() == frame[10, 5].tolist(), "above it is the wall"


def test_a_tilted_sheet_is_narrower_and_a_bent_one_more_so() -> None:
    def width(kind: str, yaw: float) -> int:
        wall = attacked(kind)[5, 5].astype(int)
        differs = np.abs(attacked(kind, yaw=yaw)[110].astype(int) - wall).max(1) > 12
        return int(np.ptp(np.flatnonzero(differs)))

    assert width("print", 40) < 0.87 * width("print", 0)
    assert width("bent", 0) < 0.9 * width("print", 0)


def test_a_tablet_shows_a_head_that_turns_while_it_is_held_still() -> None:
    still, turned = attacked("tablet"), attacked("tablet", plays=40)
    changed = np.abs(still.astype(int) - turned.astype(int)).max(2) > 20
    rows, columns = np.nonzero(changed)
    assert changed.any()
    assert rows.min() > 40
    assert 90 < columns.min() < columns.max() < 230, "the bezel stays where it is"


@settings(deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.floats(-45, 45), st.floats(-35, 35))
def test_a_flat_sheet_is_seen_as_a_plane(x: float, y: float, yaw: float, pitch: float) -> None:
    """Straight lines stay straight: what the challenge relies on of flat pictures."""
    points = np.array([[x, y], [0.0, 0.0], [-x, -y]])
    u, v = on_sheet(points[:, 0], points[:, 1], yaw, pitch, 0.0)
    assert abs((u[0] - u[1]) * (v[2] - v[1]) - (u[2] - u[1]) * (v[0] - v[1])) < 1e-9
    bent = on_sheet(points[:, 0], points[:, 1], 0.0, 0.0, 1.0)
    assert abs(bent[0][0]) >= abs(x) - 1e-9


def test_only_a_tablet_plays_anything() -> None:
    with pytest.raises(msgspec.ValidationError, match="only a tablet plays"):
        attacked("print", plays=10)


def test_what_is_enlarged_looks_as_if_each_of_its_pixels_were_looked_up() -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((60, 40, 4), np.uint8)
    pixels[3:57, 3:37, :3], pixels[3:57, 3:37, 3] = rng.integers(0, 256, (54, 34, 3)), 255
    picture = Image.fromarray(pixels, "RGBa")
    for number in range(300):
        step = float(rng.choice([1.0, 1.5, 2.0, rng.uniform(1, 6)]))
        x, y = rng.uniform(-150, 150, 2) if number % 2 else rng.integers(-150, 150, 2).astype(float)
        size = (int(rng.integers(1, 200)), int(rng.integers(1, 200)))
        looked_up = (1 / step, 0.0, -x / step, 0.0, 1 / step, -y / step)
        expected = picture.transform(size, Image.Transform.AFFINE, looked_up, Image.Resampling.BILINEAR)
        found = np.asarray(placed(picture, step, (float(x), float(y)), size)).astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 2, (step, x, y, size)
