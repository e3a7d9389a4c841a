# SPDX-License-Identifier: Apache-2.0
"""Raspberry Pi cameras: what libcamera really made is read back, and every request goes home."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.camera.base import LORES_BORDER
from agent.camera.convert import BT601, BT601_FULL, BT709, YuvColour, YuvPicture
from agent.camera.picam import PicamCamera
from agent.clock import SimulatedClock
from agent.config.camera import Picamera2Camera
from agent.errors import CameraLostError, ConfigError
from tests.simulators.picamera2_fake import FakeTransform, Sensor

LORES = (320, 240)


def camera(sensor: Sensor, **settings: Any) -> PicamCamera:
    clock = SimulatedClock()
    clock.advance(5)
    return PicamCamera(Picamera2Camera(**settings), lores_size=LORES, clock=clock, load=sensor.api)


def rgb(y: int, u: int, v: int, colour: YuvColour) -> np.ndarray:
    return YuvPicture(*(np.full((1, 1), value, np.uint8) for value in (y, u, v)), colour).window(0, 0, 1, 1)[0, 0]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def adjusted(**streams: dict[str, Any] | None) -> Callable[[dict[str, Any]], None]:
    """libcamera's silent adjustment: other formats and sizes than were asked for."""

    def adjust(configuration: dict[str, Any]) -> None:
        for name, change in streams.items():
            configuration[name] = None if change is None else {**(configuration[name] or {}), **change}

    return adjust


def test_two_even_yuv_streams_of_one_shape_are_asked_for_and_no_raw() -> None:
    sensor = Sensor()
    with camera(sensor, width=1920, height=1080, frames_per_second=20, rotate=180):
        asked = sensor.requested
    assert (asked["main"]["format"], asked["main"]["size"]) == ("YUV420", (1920, 1080))
    assert (asked["lores"]["format"], asked["lores"]["size"]) == ("YUV420", (320, 180))
    assert asked["raw"] is None
    assert asked["controls"] == {"FrameDurationLimits": (50_000, 50_000)}
    assert (asked["transform"].hflip, asked["transform"].vflip) == (1, 1)


@pytest.mark.parametrize("name", ["YUV420", "YVU420", "NV12", "NV21"])
@pytest.mark.parametrize("size", [(1280, 720), (1000, 562), (640, 480), (66, 50)])
def test_padding_is_cut_off_and_colours_are_right_in_every_format(name: str, size: tuple[int, int]) -> None:
    sensor = Sensor(adjust=adjusted(main={"format": name}, lores={"format": name}), colour_space="SMPTE170M")
    with camera(sensor, width=size[0], height=size[1]) as source:
        frames = source.frames()
        for number in range(3):
            with next(frames) as frame:
                left, right = rgb(*sensor.colours(number), BT601), rgb(200, 128, 128, BT601)
                whole = frame.main.window(0, 0, 9999, 9999)
                assert whole.shape == (size[1], size[0], 3)
                edge = size[0] // 4 * 2
                assert (whole[:, :edge] == left).all()
                assert (whole[:, edge:] == right).all()
                fit = min(320 / size[0], 240 / size[1])
                assert frame.lores.shape == (240, 320, 3)
                shown = frame.lores[: int(size[1] * fit) - 1, : int(size[0] * fit) - 1]
                assert (shown[:, : int(edge * fit) - 2] == left).all()
                assert (shown[:, int(edge * fit) + 2 :] == right).all()
                assert (frame.lores[round(size[1] * fit) :] == LORES_BORDER).all()
    assert sensor.held == 0


@pytest.mark.parametrize(
    ("colour_space", "expected"), [("sYCC", BT601_FULL), ("SMPTE170M", BT601), ("Rec709", BT709), ("RAW", BT709)]
)
def test_colour_space_is_read_back(colour_space: str, expected: YuvColour) -> None:
    sensor = Sensor(colour_space=colour_space)
    with camera(sensor) as source, next(source.frames()) as frame:
        assert (frame.main.window(0, 0, 2, 2) == rgb(*sensor.colours(0), expected)).all()


def test_other_sizes_than_asked_for_are_taken_as_they_are() -> None:
    sensor = Sensor(
        adjust=adjusted(main={"format": "NV12", "size": (1920, 1080)}, lores={"format": "NV12", "size": (640, 400)})
    )
    with camera(sensor, width=1280, height=720) as source, next(source.frames()) as frame:
        info = source.info()
        assert (info.width, info.height) == (1920, 1080)
        assert (frame.main.width, frame.main.height) == (1920, 1080)
        assert (frame.lores[:180, :150] == rgb(*sensor.colours(0), BT709)).all()
        assert (frame.lores[180:] == LORES_BORDER).all()


@pytest.mark.parametrize("lores", [None, {"format": "BGR888"}])
def test_detection_uses_the_large_picture_where_the_small_one_is_unreadable(lores: dict[str, Any] | None) -> None:
    sensor = Sensor(adjust=adjusted(lores=lores))
    with camera(sensor) as source, next(source.frames()) as frame:
        assert (frame.lores[:180, :150] == rgb(*sensor.colours(0), BT709)).all()
    assert sensor.held == 0


def test_format_that_is_not_read_is_refused_and_the_camera_closed() -> None:
    sensor = Sensor(adjust=adjusted(main={"format": "XBGR8888"}))
    with (
        pytest.raises(ConfigError, match="gives XBGR8888 where one of YUV420, YVU420, NV12, NV21 is needed"),
        camera(sensor),
    ):
        pass
    assert sensor.cameras[0].closed


def test_released_frame_shows_nothing_of_the_next_exposure() -> None:
    sensor = Sensor()
    with camera(sensor) as source:
        frame = next(source.frames())
        main, lores = frame.main, frame.lores.copy()
        frame.close()
        frame.close()
        with pytest.raises(ValueError, match="released"):
            main.window(0, 0, 10, 10)
        assert lores[0, 0].tolist() == rgb(*sensor.colours(0), BT709).tolist()
    assert sensor.held == 0


def test_many_frames_do_not_starve_the_camera() -> None:
    sensor = Sensor()
    with camera(sensor) as source:
        times = []
        for number, frame in zip(range(50), source.frames(), strict=False):
            with frame:
                assert frame.number == number
                times.append(frame.timestamp_ns)
            source.clock.sleep(0.04)
    assert times == [5_000_000_000 + number * 40_000_000 for number in range(50)]


def test_frames_that_are_never_released_end_in_a_loss_not_in_a_hang() -> None:
    sensor = Sensor()
    held = []
    with camera(sensor, timeout_s=1) as source:
        frames = source.frames()
        with pytest.raises(CameraLostError, match="no picture for 1 seconds"):
            held.extend(frames)
    assert len(held) == 6
    assert sensor.cameras[0].closed
    for frame in held:
        assert (frame.main.window(0, 0, 2, 2) == rgb(*sensor.colours(frame.number), BT709)).all()
        frame.close()  # after the camera: its buffers are unmapped now
    assert sensor.held == 0


def test_cable_that_comes_loose_is_a_loss_and_the_camera_can_be_closed() -> None:
    sensor = Sensor()
    with camera(sensor, timeout_s=1) as source:
        frames = source.frames()
        next(frames).close()
        sensor.unplugged = True
        with pytest.raises(CameraLostError, match="check its cable"):
            next(frames)
    assert sensor.cameras[0].closed


def test_camera_that_cannot_be_closed_is_a_loss() -> None:
    sensor = Sensor()
    with (
        pytest.raises(CameraLostError, match=r"cannot be closed \(Unable to stop preview\.\): restart"),
        camera(sensor),
    ):
        sensor.stuck = True
    sensor.stuck = False
    sensor.cameras[0].close()


def test_missing_camera_is_a_loss() -> None:
    with (
        pytest.raises(CameraLostError, match=r"CSI camera 3 cannot be opened .*No camera number 3 found"),
        camera(Sensor(present=False), index=3),
    ):
        pass


def test_missing_camera_leaves_no_file_open_however_often_it_is_tried() -> None:
    missing = camera(Sensor(present=False))
    before = open_files()
    for _ in range(20):
        with pytest.raises(CameraLostError), missing:
            pass
    assert open_files() == before


def test_opening_and_closing_leaves_no_file_open() -> None:
    sensor = Sensor()
    before = open_files()
    for _ in range(5):
        with camera(sensor) as source:
            next(source.frames()).close()
    assert open_files() == before


def test_camera_without_a_frame_rate_control_gives_pictures_at_its_own_pace() -> None:
    sensor = Sensor(controls=("AeEnable",))
    with camera(sensor) as source, next(source.frames()) as frame:
        assert frame.number == 0
    assert sensor.requested["controls"] == {}


@pytest.mark.parametrize("name", ["YUV420", "NV12"])
def test_picture_of_a_camera_that_cannot_turn_it_is_turned_here(name: str) -> None:
    def adjust(configuration: dict[str, Any]) -> None:
        configuration["transform"] = FakeTransform()
        configuration["main"]["format"] = configuration["lores"]["format"] = name

    sensor = Sensor(adjust=adjust, colour_space="SMPTE170M")
    with camera(sensor, rotate=180) as source, next(source.frames()) as frame:
        shown, plain = rgb(*sensor.colours(0), BT601), rgb(200, 128, 128, BT601)
        whole = frame.main.window(0, 0, 9999, 9999)
        assert (whole[:, 640:] == shown).all()
        assert (whole[:, :640] == plain).all()
        assert (frame.lores[:180, 165:] == shown).all()
        assert (frame.lores[:180, :155] == plain).all()
    assert sensor.held == 0


@pytest.mark.parametrize(("turn", "half"), [(90, 0), (270, 1)])
def test_a_camera_that_hangs_on_its_side_shows_its_picture_upright(turn: int, half: int) -> None:
    """No sensor does a quarter turn, and not every one a half: what it leaves is done here."""

    def adjust(configuration: dict[str, Any]) -> None:
        configuration["transform"] = FakeTransform()

    sensor = Sensor(adjust=adjust, colour_space="SMPTE170M")
    with camera(sensor, rotate=turn) as source, next(source.frames()) as frame:
        assert (sensor.requested["transform"].hflip, sensor.requested["transform"].vflip) == (half, half)
        assert (source.info().width, source.info().height) == (720, 1280)
        left, right = rgb(*sensor.colours(0), BT601), rgb(200, 128, 128, BT601)
        above, below = (left, right) if turn == 90 else (right, left)  # what is left goes up by a quarter clockwise
        whole = frame.main.window(0, 0, 9999, 9999)
        assert whole.shape == (1280, 720, 3)
        assert (whole[:640] == above).all()
        assert (whole[640:] == below).all()
        assert (frame.lores[:115, :135] == above).all()
        assert (frame.lores[125:, :135] == below).all()
        assert (frame.lores[:, 136:] == LORES_BORDER).all()
    assert sensor.held == 0


def test_time_of_arrival_stands_in_for_a_missing_sensor_time() -> None:
    with camera(Sensor(timestamps=False)) as source, next(source.frames()) as frame:
        assert frame.timestamp_ns == 5_000_000_000


def test_missing_picamera2_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    source = PicamCamera(Picamera2Camera(), lores_size=LORES, clock=SimulatedClock())
    with pytest.raises(ConfigError, match="install the package python3-picamera2"), source:
        pass
