# SPDX-License-Identifier: Apache-2.0
"""Tests on cameras that are there: they skip where none is, or fail with POSTERN_REQUIRE_DEVICES=1.

``tools/camera-stack`` runs them on libcamera's virtual camera and the kernel's virtual video device; on a Raspberry
Pi or with a USB camera, ``tools/test tests/device`` takes those.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from agent.config.camera import V4l2Camera

TIMEOUT_S = 30.0  # an emulated camera takes its time


def missing(what: str) -> NoReturn:
    if os.environ.get("POSTERN_REQUIRE_DEVICES") == "1":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def csi_camera() -> None:
    """At least one camera that picamera2 lists."""
    try:
        from picamera2 import Picamera2  # noqa: PLC0415 - only where it is installed
    except ImportError:
        missing("picamera2 is not installed for this Python")
    if not Picamera2.global_camera_info():
        missing("libcamera lists no camera")


@pytest.fixture(scope="session")
def vivid() -> Path:
    """The kernel's virtual video device, which shows bars of known colours and can be unplugged by a control."""
    for name in sorted(Path("/sys/class/video4linux").glob("video*/name")):
        if name.read_text().startswith("vivid") and name.read_text().rstrip().endswith("vid-cap"):
            return Path("/dev") / name.parent.name
    missing("no vivid video device: modprobe vivid")


@pytest.fixture
def usb_settings(vivid: Path) -> V4l2Camera:
    return V4l2Camera(
        device=vivid, width=640, height=480, frames_per_second=10.0, format="yuyv422", timeout_s=TIMEOUT_S
    )


@pytest.fixture(scope="session")
def shown() -> Path:
    """Folder of the pictures that the virtual camera shows in turns."""
    folder = os.environ.get("POSTERN_SHOWN")
    if not folder:
        missing("POSTERN_SHOWN does not say which pictures the camera shows")
    return Path(folder)
