# SPDX-License-Identifier: Apache-2.0
"""The kernel's virtual video device (vivid) through FFmpeg and through GStreamer."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.camera.base import Frame
from agent.camera.open import open_camera
from agent.clock import SystemClock
from agent.config.camera import CameraSettings, GstreamerCamera, V4l2Camera
from agent.errors import CameraLostError
from tests.device.conftest import TIMEOUT_S, missing
from tools.lib.arm64 import LIBCAMERA_PIPELINE

pytestmark = pytest.mark.timeout(600)

LORES = (320, 240)
# vivid's first test pattern, 75 % bars from left to right (vivid-tpg.c); text lies over the upper part.
BARS = [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0), (191, 0, 191), (191, 0, 0), (0, 0, 191), (0, 0, 0)]
NEAR = 12  # grey levels: 8 bit and two roundings, and vivid's sRGB transfer against BT.709's


@contextmanager
def opened(settings: CameraSettings) -> Iterator[Iterator[Frame]]:
    with open_camera(settings, lores_size=LORES, clock=SystemClock()) as source, closing(source.frames()) as frames:
        yield frames


def bars(frame: Frame) -> np.ndarray:
    """Colours of the middles of the eight bars, (8, 3), below the text."""
    width, height = frame.main.width, frame.main.height
    row = frame.main.window(0, height * 7 // 8, width, height * 7 // 8 + 8).mean(0)
    return row[[width * (2 * bar + 1) // 16 for bar in range(8)]]


@pytest.mark.parametrize("pixels", ["yuyv422", "nv12", "yuv420p"])
def test_colours_are_true_and_times_are_this_machines(usb_settings: V4l2Camera, pixels: str) -> None:
    times = []
    with opened(msgspec.structs.replace(usb_settings, format=pixels)) as frames:
        for _ in range(4):
            with next(frames) as frame:
                assert (frame.main.width, frame.main.height) == (640, 480)
                assert np.abs(bars(frame) - BARS).max() <= NEAR
                assert frame.lores.shape == (LORES[1], LORES[0], 3)
                times.append(frame.timestamp_ns)
                assert -1 < (time.monotonic_ns() - frame.timestamp_ns) / 1e9 < TIMEOUT_S
    assert times == sorted(set(times))


def test_gstreamer_reads_the_same_device_with_true_colours(vivid: Path) -> None:
    pipeline = f"v4l2src device={vivid} ! video/x-raw,format=YUY2,width=640,height=480 ! videoconvert"
    with opened(GstreamerCamera(pipeline=pipeline, timeout_s=TIMEOUT_S)) as frames, next(frames) as frame:
        assert np.abs(bars(frame) - BARS).max() <= NEAR
        assert -1 < (time.monotonic_ns() - frame.timestamp_ns) / 1e9 < TIMEOUT_S


@pytest.mark.usefixtures("csi_camera")
def test_gstreamer_reads_libcamera() -> None:
    with opened(GstreamerCamera(pipeline=LIBCAMERA_PIPELINE, timeout_s=TIMEOUT_S)) as frames, next(frames) as frame:
        assert (frame.main.width, frame.main.height) == (1280, 720)


def test_unplugged_camera_is_lost_and_found_again(usb_settings: V4l2Camera, vivid: Path) -> None:
    with opened(usb_settings) as frames:
        next(frames).close()
        unplug(vivid)
        with pytest.raises(CameraLostError, match=str(vivid)):
            drain(frames)
    plug_in()
    with opened(usb_settings) as frames:
        next(frames).close()


def test_second_reader_of_a_busy_camera_is_told_that_it_is_lost(usb_settings: V4l2Camera) -> None:
    with opened(usb_settings) as frames:
        next(frames).close()
        with pytest.raises(CameraLostError), opened(usb_settings):
            pass
        next(frames).close()


def test_format_that_the_camera_does_not_have_is_a_loss_with_a_reason(usb_settings: V4l2Camera) -> None:
    with pytest.raises(CameraLostError), opened(msgspec.structs.replace(usb_settings, format="h264")) as frames:
        next(frames)


def drain(frames: Iterator[Frame]) -> None:
    for frame in frames:
        frame.close()


def unplug(device: Path) -> None:
    """vivid's own control: every file of the device answers ENODEV from now on, as after a pulled cable."""
    done = subprocess.run(["v4l2-ctl", "-d", str(device), "-c", "disconnect=1"], capture_output=True, text=True)
    if done.returncode:
        missing(f"vivid cannot be unplugged: {done.stderr.strip()}")


def plug_in() -> None:
    """Load the driver again, as plugging in does; some seconds pass until its files are all closed."""
    for words in (["modprobe", "-r", "vivid"], ["modprobe", "vivid"], ["udevadm", "settle"]):
        subprocess.run(words, check=True, capture_output=True)
