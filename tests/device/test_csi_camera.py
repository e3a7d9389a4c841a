# SPDX-License-Identifier: Apache-2.0
"""The genuine picamera2 on a camera that libcamera knows."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.camera.base import Camera
from agent.camera.open import open_camera
from agent.camera.supervise import CameraNotice, LatestFrame, Supervised
from agent.clock import SystemClock
from agent.config.camera import Picamera2Camera
from agent.errors import CameraLostError
from tests.device.conftest import TIMEOUT_S

pytestmark = [
    pytest.mark.usefixtures("csi_camera"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:picamera2.*"),  # its own calls of setDaemon
]

LORES = (320, 240)
BLOCK = 40  # pixels: of squares whose mean colours are compared
NEAR = 6.0  # grey levels of mean difference: JPEG, 4:2:0 and two roundings


def camera(width: int = 1280, height: int = 720, **others: float) -> Camera:
    settings = Picamera2Camera(width=width, height=height, **{"timeout_s": TIMEOUT_S, **others})
    return open_camera(settings, lores_size=LORES, clock=SystemClock())


def test_what_is_shown_is_what_is_seen_in_its_true_colours(shown: Path) -> None:
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(shown.glob("*.jpg"))]
    with camera() as source, closing(source.frames()) as frames, next(frames) as frame:
        width, height = frame.main.width, frame.main.height
        whole = frame.main.window(0, 0, width, height)
        lores = frame.lores.copy()
    assert whole.shape == pictures[0].shape
    assert min(apart(whole, picture) for picture in pictures) < NEAR
    rows = round(height * LORES[0] / width)
    small = (Image.fromarray(picture).resize((LORES[0], rows), Image.Resampling.BOX) for picture in pictures)
    assert min(apart(lores[:rows], np.asarray(picture)) for picture in small) < NEAR


def test_times_of_frames_rise_and_are_those_of_this_machine(csi_camera: None) -> None:
    with camera() as source, closing(source.frames()) as frames:
        times = []
        for _ in range(8):
            with next(frames) as frame:
                times.append(frame.timestamp_ns)
                assert -1 < (time.monotonic_ns() - frame.timestamp_ns) / 1e9 < TIMEOUT_S
    assert times == sorted(set(times))


def test_many_more_frames_than_buffers_come_when_each_is_released() -> None:
    with camera() as source, closing(source.frames()) as frames:
        for number in range(20):
            with next(frames) as frame:
                assert frame.number == number


def test_held_frames_starve_the_camera_which_is_a_loss_and_it_opens_again() -> None:
    held = []
    with camera(timeout_s=3.0) as source, closing(source.frames()) as frames:
        with pytest.raises(CameraLostError, match="no picture for 3 seconds"):
            held.extend(frames)
        assert held
        for frame in held:
            frame.close()
    for _ in range(2):
        with camera() as source, closing(source.frames()) as frames:
            next(frames).close()


def test_frame_held_over_the_end_of_its_camera_can_be_let_go() -> None:
    with camera() as source, closing(source.frames()) as frames:
        frame = next(frames)
    frame.close()
    with camera() as source, closing(source.frames()) as frames:
        next(frames).close()


def test_camera_that_is_not_there_is_a_loss() -> None:
    with (
        pytest.raises(CameraLostError, match=r"CSI camera 7 cannot be opened .*No camera number 7 found"),
        camera(index=7),
    ):
        pass


def test_size_that_the_camera_does_not_have_is_taken_as_the_camera_gives_it() -> None:
    with camera(width=648, height=486) as source, closing(source.frames()) as frames, next(frames) as frame:
        assert (frame.main.width, frame.main.height) == (source.info().width, source.info().height)
        assert frame.main.window(0, 0, 9999, 9999).shape == (frame.main.height, frame.main.width, 3)
        assert frame.lores.shape == (LORES[1], LORES[0], 3)


def test_supervised_as_in_the_service_the_newest_frame_arrives_and_stopping_is_quick() -> None:
    notices: list[CameraNotice] = []
    supervised = Supervised(camera, clock=SystemClock(), random=bytes, on_notice=notices.append)
    with LatestFrame(supervised) as latest:
        for _ in range(3):
            frame = latest.take(TIMEOUT_S)
            assert frame is not None
            frame.close()
        began = time.monotonic()
    assert time.monotonic() - began < TIMEOUT_S
    assert not [notice for notice in notices if notice.kind == "camera_lost"]


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of the mean colours of squares."""

    def means(array: np.ndarray) -> np.ndarray:
        rows, columns = array.shape[0] // BLOCK, array.shape[1] // BLOCK
        squares = array[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK, 3)
        return squares.mean((1, 3))

    return float(np.abs(means(first) - means(second)).mean())
