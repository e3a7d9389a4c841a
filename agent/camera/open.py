# SPDX-License-Identifier: Apache-2.0
"""From settings to a camera: the one place that knows all kinds."""

from __future__ import annotations

import importlib

from agent.camera.av_input import file_input, rtsp_input, v4l2_input
from agent.camera.av_source import AvCamera
from agent.camera.base import Camera
from agent.clock import Clock
from agent.config.camera import CameraSettings, FileCamera, GstreamerCamera, Picamera2Camera, RtspCamera, V4l2Camera


def open_camera(settings: CameraSettings, *, lores_size: tuple[int, int], clock: Clock) -> Camera:
    """Make the camera that ``settings`` describe; it is opened by entering it. ``lores_size`` is (w, h).

    Live ones end with CameraLostError, see ``agent.camera.supervise``. Raises ConfigError or KeyStoreError when a
    credentials file is not usable.
    """
    match settings:
        case FileCamera():
            return AvCamera(file_input(settings), lores_size=lores_size, clock=clock)
        case RtspCamera():
            return AvCamera(rtsp_input(settings), lores_size=lores_size, clock=clock)
        case V4l2Camera():
            return AvCamera(v4l2_input(settings), lores_size=lores_size, clock=clock)
        case Picamera2Camera():
            from agent.camera.picam import PicamCamera  # noqa: PLC0415 - a start reads what its own camera needs

            return PicamCamera(settings, lores_size=lores_size, clock=clock)
        case GstreamerCamera():
            from agent.camera.gstreamer import GstreamerSource  # noqa: PLC0415

            return GstreamerSource(settings, lores_size=lores_size, clock=clock)
    scene = importlib.import_module("agent.camera.scene.camera")  # only here: its people are megabytes
    camera: Camera = scene.SceneCamera(settings.script, lores_size=lores_size, clock=clock, loop=settings.loop)
    return camera
