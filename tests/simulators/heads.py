# SPDX-License-Identifier: Apache-2.0
"""Faces as the detector would report them, from a head that is turned and seen from afar; it bows less than it does."""

from __future__ import annotations

import math

import numpy as np

from agent.detect.face import Face
from agent.detect.pose import PITCH_GAIN

# Left eye, right eye, nose, mouth corners in eye distances; x to the picture's right, y down, z towards the camera.
HEAD = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.07, 0.42], [-0.4, 0.52, 0], [0.4, 0.52, 0]])


def landmarks(*, yaw: float = 0, pitch: float = 0, roll: float = 0, size: float = 40, at: tuple[float, float] = (0, 0)):
    """float32 (5, 2); ``size`` is the eye distance of the frontal head in pixels, angles in degrees."""
    y, p, r = (math.radians(angle) for angle in (yaw, pitch, roll))
    p = math.atan(math.tan(p) / PITCH_GAIN)  # as the landmark network shows it
    about_y = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    about_z = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    turned = HEAD @ (about_z @ about_y @ about_x).T
    return (turned[:, :2] * size + np.array(at)).astype(np.float32)


def face(x: float, y: float, width: float = 120, *, score: float = 0.9, **turn: float) -> Face:
    """A face whose box has its centre at (x, y)."""
    half = width / 2
    points = landmarks(size=width * 0.4, at=(x, y), **turn)
    return Face((x - half, y - half, x + half, y + half), points, score)
