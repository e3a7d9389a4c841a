# SPDX-License-Identifier: Apache-2.0
"""What somebody holds before a camera instead of a face: a flat or a bent print, a tablet that plays a turning head.

Presentation attack instruments (ISO/IEC 30107-3) for tests: a rigid sheet, turned and tilted as a hand does, seen in
perspective from arm's length. A mask of paper is no sheet: it is a head without a nose (``Figure``).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.scene.figure import Exposure, Figure, Level, Sprite, drawn, lit, mesh
from agent.camera.scene.motion import Placement
from agent.camera.scene.pose import PICTURE_SIDE
from agent.camera.scene.script import Attack

CELLS: Final = {"print": 4, "tablet": 4, "bent": 16}  # of the sheet's mesh per side: a flat one needs few
DISTANCE: Final = 4.0  # sides of the sheet between its middle and the lens: a print of 15 cm, 60 cm away
RADIUS: Final = 0.45  # sides of the sheet: of the cylinder that a bent print lies on; its edges go back by a third
EDGE: Final = {"print": 8, "bent": 8, "tablet": 16}  # stored pixels of white paper or black bezel around the picture
BACKDROP: Final = (203, 208, 210)
PAPER, BEZEL = (238, 238, 234), (14, 14, 16)
SCREEN = (0.96, 1.0, 1.06)  # a screen is a little blue
_ROUNDS = 8  # of the search for a bent sheet's point; the error falls below a tenth of a pixel


class Sheet:
    """One person's picture on a print or a tablet; draws as ``Figure`` does."""

    def __init__(self, figure: Figure, attack: Attack) -> None:
        self._figure, self._kind = figure, attack.kind
        self._still: Image.Image | None = None
        self._shown: tuple[Image.Image, int, Level] | None = None  # of a print always the same

    def draw(self, at: Placement, exposure: Exposure, bounds: tuple[int, int]) -> list[Sprite]:
        """Sprites from back to front: who holds it, and the sheet."""
        scale = at.face / self._figure.face
        picture = self._picture(at, exposure)
        side = picture.width
        reach = math.ceil(scale * side * 0.9) + 1  # a corner that comes nearer
        x0, y0 = math.floor(at.x) - reach, math.floor(at.y) - reach
        ticks = np.linspace(0, 2 * reach, CELLS[self._kind] + 1).round().astype(int)
        x, y = np.meshgrid((ticks + x0 - at.x) / (scale * side), (ticks + y0 - at.y) / (scale * side))
        cos, sin = math.cos(math.radians(at.roll)), math.sin(math.radians(at.roll))
        bend = 1 / RADIUS if self._kind == "bent" else 0.0
        u, v = on_sheet(cos * x + sin * y, cos * y - sin * x, at.yaw, at.pitch, bend)
        middle = np.array([side / 2 + self._figure.middle[0], side / 2 + self._figure.middle[1]])
        level = max(0, math.floor(-math.log2(scale)))
        source = np.asarray((np.stack([u, v], -1) * side + middle) / 2**level, np.float32)
        if self._shown is None or self._shown[0] is not picture or self._shown[1] != level:
            self._shown = picture, level, Level(picture.reduce(2**level).convert("RGBa"))
        shown = self._shown[2]
        sheet, left, top = drawn(shown.picture, mesh(ticks, source, shown.sums), 0, 2 * reach)
        return [*self._figure.draw_body(at, exposure, bounds), Sprite(sheet.convert("RGBA"), x0 + left, y0 + top)]

    def _picture(self, at: Placement, exposure: Exposure) -> Image.Image:
        """The sheet's face, RGBA, square: the picture and what frames it."""
        if self._kind == "tablet":
            return self._framed(self._figure.portrait(at.played), BEZEL, SCREEN)
        if self._still is None:
            self._still = self._framed(self._figure.portrait((0.0, 0.0, 0.0)), PAPER, (1.0, 1.0, 1.0))
        return lit(self._still, exposure)

    def _framed(self, portrait: Image.Image, colour: tuple[int, int, int], tint: tuple[float, ...]) -> Image.Image:
        edge = EDGE[self._kind]
        inner = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), BACKDROP)
        inner.paste(portrait, (0, 0), portrait)
        tinted = np.clip(np.asarray(inner, np.float32) * tint, 0, 255).astype(np.uint8)
        whole = Image.new("RGBA", (PICTURE_SIDE + 2 * edge,) * 2, (*colour, 255))
        whole.paste(Image.fromarray(tinted), (edge, edge))
        return whole


_Plane = NDArray[np.float64]


def on_sheet(x: _Plane, y: _Plane, yaw: float, pitch: float, bend: float) -> tuple[_Plane, _Plane]:
    """Where on the sheet a point of the view lies, all in sides of the sheet from its middle.

    ``yaw`` and ``pitch`` in degrees turn the sheet as a head turns; ``bend`` is one over the radius of the upright
    cylinder that it lies on, 0 for a flat one.
    """
    a, b = math.radians(yaw), math.radians(pitch)
    about_y = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), math.sin(b)], [0, -math.sin(b), math.cos(b)]])
    turn = about_y @ about_x
    z = np.zeros_like(x)
    for _ in range(_ROUNDS if bend else 1):
        # The ray through (x, y) meets the plane at depth z: two linear equations for the point (p, v) on it.
        k = DISTANCE * turn[0] + np.multiply.outer(x, turn[2])
        m = DISTANCE * turn[1] + np.multiply.outer(y, turn[2])
        right, below = x * DISTANCE - k[..., 2] * z, y * DISTANCE - m[..., 2] * z
        scale = k[..., 0] * m[..., 1] - k[..., 1] * m[..., 0]
        p = (right * m[..., 1] - below * k[..., 1]) / scale
        v = (below * k[..., 0] - right * m[..., 0]) / scale
        if bend:
            p = np.clip(p, -0.99 / bend, 0.99 / bend)
            z = (np.sqrt(1 - (p * bend) ** 2) - 1) / bend
    return (np.arcsin(p * bend) / bend, v) if bend else (p, v)
