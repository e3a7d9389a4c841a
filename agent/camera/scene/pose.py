# SPDX-License-Identifier: Apache-2.0
"""A generic head in depth: turns one frontal picture into views by yaw and pitch, and gives it light from a side.

Coordinates are pixels of the ArcFace template (Deng et al. 2019: a 112x112 crop, eyes at y 52, mouth at y 92)
around its centre. The head is half an ellipsoid with a nose; good for about +-35 degrees, which covers
everything that a gate for frontal faces has to tell apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

TEMPLATE_SIZE: Final = 112  # template pixels: the side of an aligned crop
PICTURE_MARGIN: Final = 24  # template pixels around the crop in a stored picture: hair, ears, chin, neck
PICTURE_SCALE: Final = 1.25  # stored pixels per template pixel
PICTURE_SIDE: Final = 200  # stored pixels: (112 + 2 * 24) * 1.25
MAX_YAW: Final = 45.0  # degrees: further out the far side of the face would have to be invented
MAX_PITCH: Final = 35.0  # degrees

_UNIT = 71.5  # template pixels per unit of the depth model: about half a head's height
_AXIS = 0.35  # depth of the neck's axis, in units: what turns stays centred on it
_ROUNDS = 8  # fixed-point rounds of the projection: 99 of 100 points err by less than a pixel, at any turn
_SHARE = 0.7  # of a round's correction; with all of it the far flank of a nose swings to and fro beyond 20 degrees


Surface = Callable[[Plane, Plane], Plane]


def skull(u: Plane, v: Plane) -> Plane:
    """Height of the head without its nose above its silhouette plane at ``u``, ``v``, all in units of ``_UNIT``."""
    inside = 1 - (u / 0.78) ** 2 - ((v + 0.05) / 0.98) ** 2
    # A softened square root: the sphere's edge is vertical and would tear the hair there.
    return np.asarray(0.62 * np.sqrt((inside + np.sqrt(inside**2 + 0.03)) / 2), np.float32)


def depth(u: Plane, v: Plane) -> Plane:
    """Height of the head with its nose, as ``skull``."""
    nose = np.exp(-((u / 0.13) ** 2 + ((v - 0.12) / 0.22) ** 2))
    return np.asarray(skull(u, v) + 0.16 * nose, np.float32)


def frontal(x: Plane, y: Plane, yaw: float, pitch: float, surface: Surface = depth) -> tuple[Plane, Plane]:
    """Where in the frontal picture a point of the turned view lies.

    ``x``, ``y``: template pixels from the template's centre. ``yaw``: degrees, positive turns the nose to the
    image's right; ``pitch``: degrees, positive lowers the nose.
    """
    a, b = np.radians(yaw), np.radians(pitch)
    u0 = np.asarray(x / _UNIT + _AXIS * np.sin(a), np.float32)
    v0 = np.asarray(y / _UNIT + _AXIS * np.sin(b), np.float32)
    u, v = u0, v0
    for _ in range(_ROUNDS):
        z = surface(u, v)
        u = u + _SHARE * ((u0 - z * np.sin(a)) / np.cos(a) - u)
        v = v + _SHARE * ((v0 - z * np.sin(b)) / np.cos(b) - v)
    return np.asarray(u * _UNIT, np.float32), np.asarray(v * _UNIT, np.float32)


def shade(side: float, above: float) -> Plane:
    """Light on a stored picture, float32 (PICTURE_SIDE, PICTURE_SIDE) around 1.

    ``side`` in [-1, 1] is how strongly the light comes from the image's left or right, ``above`` from below or above.
    """
    axis = (np.arange(PICTURE_SIDE, dtype=np.float32) + 0.5) / PICTURE_SCALE - PICTURE_MARGIN - TEMPLATE_SIZE / 2
    u, v = np.meshgrid(axis / _UNIT, axis / _UNIT)
    # Softened ellipsoid: the true normal at the silhouette is horizontal and would draw a hard rim.
    height = 0.62 * np.exp(-0.9 * ((u / 0.78) ** 2 + (v / 0.98) ** 2)) + 0.05 * np.exp(
        -((u / 0.13) ** 2 + ((v - 0.12) / 0.22) ** 2)
    )
    gy, gx = np.gradient(height, 1 / (_UNIT * PICTURE_SCALE))
    nz = 1 / np.sqrt(1 + gx**2 + gy**2)
    return np.asarray(np.clip(1 - (side * gx - above * gy) * nz * 1.1, 0.15, 1.6), np.float32)
