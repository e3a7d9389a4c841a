# SPDX-License-Identifier: Apache-2.0
"""A demo person as pictures of the size, pose and light that a moment of the scene asks for.

Head: one stored picture, what covers it drawn into it, shaded, then turned, rolled and scaled in one mesh
transform, so that pixels are interpolated once. Body: a plain figure, scaled with it.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agent.camera.scene.body import BODY_BOTTOM, BODY_HALF_WIDTH, BODY_HALVINGS, BODY_SCALE, BODY_TOP, body
from agent.camera.scene.cover import cover
from agent.camera.scene.motion import Placement
from agent.camera.scene.people import People
from agent.camera.scene.pose import (
    PICTURE_MARGIN,
    PICTURE_SCALE,
    PICTURE_SIDE,
    TEMPLATE_SIZE,
    Plane,
    depth,
    frontal,
    shade,
    skull,
)
from agent.camera.scene.script import Blend

MESH_CELLS: Final = 16  # per side at most: a cell is 12 stored pixels, about the width of the depth model's nose
MESH_CELL_PIXELS: Final = 6  # of the frame at least: far heads get by with fewer cells
MAX_SMEAR: Final = 48.0  # pixels of motion blur; whoever moves faster is unrecognisable anyway
SMEAR_COPIES: Final = 12  # at most: steps of four pixels, which no detector minds

Sums = NDArray[np.int32]  # (height + 1, width + 1): of all pixels above and left of a corner
Box = tuple[int, int, int, int]  # x0, y0, x1, y1
Cell = tuple[Box, tuple[float, ...]]  # of Pillow's mesh: where, and its corners in the source

_MIDDLE = (PICTURE_MARGIN + TEMPLATE_SIZE / 2) * PICTURE_SCALE  # the template's middle in a stored picture
_TURN_ROOM = 14  # stored pixels that a turned head may reach beyond its picture


class Exposure(msgspec.Struct, frozen=True):
    """How a person is lit and taken: factor on the light, grey levels of glare, share of the frame time."""

    gain: float
    veil: float
    shutter: float


class Sprite(msgspec.Struct, frozen=True):
    """An RGBA picture, not premultiplied, and where its top left corner belongs."""

    picture: Image.Image
    x: int
    y: int


class Figure:
    """One person of a scene; prepared once, then drawn for any moment."""

    def __init__(
        self,
        people: People,
        who: str,
        picture: int,
        blend: Blend | None = None,
        coat: str | None = None,
        *,
        masked: bool = False,
    ) -> None:
        """``masked``: somebody wears the person's face on paper, bent round a head and without a nose."""
        person = people.people[who]
        self._base = (
            people.picture(who, picture) if blend is None else people.blended(who, blend.who, blend.share, picture)
        )
        self._surface = skull if masked else depth
        self.face = people.box[3] - people.box[1]  # its height in stored pixels
        # The face's middle, seen from the template's middle, in stored pixels.
        self.middle = ((people.box[0] + people.box[2]) / 2 - _MIDDLE, (people.box[1] + people.box[3]) / 2 - _MIDDLE)
        self._skin = _rgb(person.skin)
        whole = body(self._skin, _rgb(coat or person.cloth))
        self._bodies = [
            Level(body.convert("RGBa"))
            for body in itertools.accumulate([2] * BODY_HALVINGS, Image.Image.reduce, initial=whole)
        ]
        self._prepared: tuple[tuple[object, ...], list[Level]] | None = None

    def draw(self, at: Placement, exposure: Exposure, bounds: tuple[int, int]) -> list[Sprite]:
        """Sprites from back to front; nothing is needed beyond ``bounds`` (width, height)."""
        scale = at.face / self.face
        smear = _limited(at.speed[0] * exposure.shutter), _limited(at.speed[1] * exposure.shutter)
        pad = math.ceil(3 * at.blur + max(abs(smear[0]), abs(smear[1]))) + 1
        sprites = [self._head(at, exposure, scale, pad), self._torso(at, exposure, scale, pad, bounds)]
        return [_soften(sprite, at.blur, smear) for sprite in sprites if sprite is not None]

    def draw_body(self, at: Placement, exposure: Exposure, bounds: tuple[int, int]) -> list[Sprite]:
        """The figure without its head: whoever holds something before it."""
        torso = self._torso(at, exposure, at.face / self.face, 1, bounds)
        return [] if torso is None else [torso]

    def portrait(self, pose: tuple[float, float, float]) -> Image.Image:
        """The head as a picture of its own, RGBA, PICTURE_SIDE on each side, at yaw, pitch and roll."""
        middle = PICTURE_SIDE / 2
        at = Placement(
            0, middle + self.middle[0], middle + self.middle[1], self.face, *pose, 1.0, 0.0, 0.0, (), (0.0, 0.0), pose
        )
        head = self._head(at, Exposure(1.0, 0.0, 0.0), 1.0, 0)
        return head.picture.crop((-head.x, -head.y, PICTURE_SIDE - head.x, PICTURE_SIDE - head.y))

    def _head(self, at: Placement, exposure: Exposure, scale: float, pad: int) -> Sprite:
        levels = self._levels(at, exposure)
        level = min(max(0, math.floor(-math.log2(scale))), len(levels) - 1)
        cos, sin = math.cos(math.radians(at.roll)), math.sin(math.radians(at.roll))
        reach = scale * (PICTURE_SIDE / 2 + _TURN_ROOM) * (abs(cos) + abs(sin))
        x0, y0 = math.floor(at.x - reach) - pad, math.floor(at.y - reach) - pad
        side = math.ceil(2 * reach) + 2 * pad + 1
        # Unturned, all is one affine map; a turned head needs cells as fine as its depth, but no finer than pixels.
        cells = min(MESH_CELLS, max(2, side // MESH_CELL_PIXELS)) if at.yaw or at.pitch else 1
        ticks = np.linspace(0, side, cells + 1).round().astype(int)
        x, y = np.meshgrid(ticks + x0 - at.x, ticks + y0 - at.y)
        u = np.asarray((cos * x + sin * y) / scale + self.middle[0], np.float32)
        v = np.asarray((cos * y - sin * x) / scale + self.middle[1], np.float32)
        if cells > 1:
            u, v = (
                PICTURE_SCALE * p
                for p in frontal(u / PICTURE_SCALE, v / PICTURE_SCALE, at.yaw, at.pitch, self._surface)
            )
        source = np.asarray((np.stack([u, v], axis=-1) + np.float32(_MIDDLE)) / 2**level)
        shown = mesh(ticks, source, levels[level].sums)
        if cells == 1:
            shown = [levels[level].trimmed(*cell) for cell in shown]
        turned, left, top = drawn(levels[level].picture, shown, pad, side)
        return Sprite(turned.convert("RGBA"), x0 + left, y0 + top)

    def _levels(self, at: Placement, exposure: Exposure) -> list[Level]:
        """Covered and lit picture at full size, half, quarter and eighth; kept while nothing changes."""
        kinds, gain, side = tuple(each.kind for each in at.covers), round(exposure.gain, 3), round(at.side, 2)
        key = (kinds, gain, side, exposure.veil)
        if self._prepared is None or self._prepared[0] != key:
            picture = self._base.copy()
            for kind in kinds:
                cover(picture, kind, self._skin)
            array = np.asarray(picture).astype(np.float32)
            array[..., :3] = array[..., :3] * (gain * shade(side, 0.0)[..., None]) + exposure.veil
            whole = Image.fromarray(np.clip(array + 0.5, 0, 255).astype(np.uint8)).convert("RGBa")
            levels = (whole, whole.reduce(2), whole.reduce(4), whole.reduce(8))
            # What is sampled is premultiplied; that the way there goes by RGBA costs a grey level here and there, and
            # with them each scene looks as it always did.
            ready = [level.convert("RGBA").convert("RGBa") for level in levels]
            self._prepared = (key, [Level(level) for level in ready])
        return self._prepared[1]

    def _torso(
        self, at: Placement, exposure: Exposure, scale: float, pad: int, bounds: tuple[int, int]
    ) -> Sprite | None:
        halvings = min(max(0, math.ceil(-math.log2(scale * BODY_SCALE)) - 1), BODY_HALVINGS)
        level, step = self._bodies[halvings], scale * BODY_SCALE * 2**halvings
        left, right = at.x - BODY_HALF_WIDTH * scale, at.x + BODY_HALF_WIDTH * scale
        top, bottom = at.y + BODY_TOP * scale, at.y + BODY_BOTTOM * scale
        # Nothing is there further right than half a stored pixel from the last that is. At the left as much is drawn in
        # vain: another origin would round some places otherwise.
        right = min(right, left + (level.ink[2] + 0.5) * step)
        x0, x1 = max(math.floor(left), 0) - pad, min(math.ceil(right), bounds[0]) + pad
        y0, y1 = max(math.floor(top), 0) - pad, min(math.ceil(bottom), bounds[1]) + pad
        if x1 - x0 <= 2 * pad or y1 - y0 <= 2 * pad:
            return None
        shown = placed(level.picture, step, (left - x0, top - y0), (x1 - x0, y1 - y0))
        return Sprite(lit(shown.convert("RGBA"), exposure), x0, y0)


class Level:
    """A premultiplied picture, the box in which something is, and how many such pixels are before each corner."""

    def __init__(self, picture: Image.Image) -> None:
        alpha = np.asarray(picture)[..., 3] > 0
        self.picture = picture
        self.ink: Box = picture.getbbox() or (0, 0, *picture.size)
        self.sums: Sums = np.pad(alpha.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0)))

    def trimmed(self, box: Box, source: tuple[float, ...]) -> Cell:
        """Of a cell that is turned and scaled alone, the part in which something is."""
        nw, sw, se, ne = np.array(source).reshape(4, 2)
        start, size = np.array(box[:2]), np.subtract(box[2:], box[:2])
        x0, y0, x1, y1 = self.ink
        ends = np.array([(x0 - 1, y0 - 1), (x0 - 1, y1 + 1), (x1 + 1, y1 + 1), (x1 + 1, y0 - 1)])
        at = start + size * np.linalg.solve(np.stack([ne - nw, sw - nw], axis=1), (ends - nw).T).T
        left, top = (max(int(one), low) for one, low in zip(np.floor(at.min(axis=0)), box[:2], strict=True))
        right, bottom = (min(int(one), high) for one, high in zip(np.ceil(at.max(axis=0)), box[2:], strict=True))
        if left >= right or top >= bottom:
            return box, source
        s, t = np.moveaxis(
            (np.array([(left, top), (left, bottom), (right, bottom), (right, top)]) - start) / size, 1, 0
        )
        corners = nw + np.outer(s, ne - nw) + np.outer(t, sw - nw) + np.outer(s * t, se - sw - ne + nw)
        return (left, top, right, bottom), tuple(corners.ravel().tolist())


def drawn(picture: Image.Image, cells: list[Cell], pad: int, side: int) -> tuple[Image.Image, int, int]:
    """The cells of a square with ``side``, and ``pad`` around them; where its top left corner is in the square."""
    boxes = np.array([box for box, _ in cells] or [(0, 0, 1, 1)])
    left, top = (max(0, int(low) - pad) for low in boxes[:, :2].min(axis=0))
    right, bottom = (min(side, int(high) + pad) for high in boxes[:, 2:].max(axis=0))
    moved = [((x0 - left, y0 - top, x1 - left, y1 - top), source) for (x0, y0, x1, y1), source in cells]
    size = (right - left, bottom - top)
    return picture.transform(size, Image.Transform.MESH, moved, Image.Resampling.BILINEAR), left, top


def mesh(ticks: NDArray[np.int_], source: Plane, inked: Sums | None = None) -> list[Cell]:
    """Pillow's mesh: each cell's box, and its corners in the source counter-clockwise from the top left.

    Without those in which nothing of the source is, where ``inked`` says that: half of a head's.
    """
    at, corner = ticks.tolist(), source.tolist()
    cells = len(at) - 1
    shown = np.ones((cells, cells), bool) if inked is None else _shown(source, inked)
    return [
        (
            (at[i], at[j], at[i + 1], at[j + 1]),
            (*corner[j][i], *corner[j + 1][i], *corner[j + 1][i + 1], *corner[j][i + 1]),
        )
        for j, i in np.argwhere(shown).tolist()
    ]


def _shown(source: Plane, inked: Sums) -> NDArray[np.bool_]:
    """Of which cells the source, with the neighbours that a pixel is mixed from, has a pixel that is there."""
    corners = np.stack([source[:-1, :-1], source[1:, :-1], source[1:, 1:], source[:-1, 1:]])
    ends = np.array(inked.shape[::-1]) - 1
    low = np.clip(np.floor(corners.min(axis=0)) - 1, 0, ends).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, ends).astype(int)
    (x0, y0), (x1, y1) = np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)
    return np.asarray(inked[y1, x1] - inked[y0, x1] - inked[y1, x0] + inked[y0, x0] > 0)


def placed(picture: Image.Image, step: float, at: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    """A transparent picture of ``size`` with ``picture``, ``step`` times as large, at a place that may be anywhere."""
    if step < 1:  # in smaller steps a resize takes the mean of more pixels, and who stands far off would look softer
        affine = (1 / step, 0.0, -at[0] / step, 0.0, 1 / step, -at[1] / step)
        return picture.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    # The same but for a grey level, in a third of the time. Its edge, which has no ink, is left out.
    low = [max(0, math.ceil(start)) for start in at]
    high = [min(end, math.floor(start + own * step)) for start, own, end in zip(at, picture.size, size, strict=True)]
    whole = Image.new(picture.mode, size)
    if low[0] < high[0] and low[1] < high[1]:
        left, top, right, bottom = ((edge - at[n % 2]) / step for n, edge in enumerate((*low, *high)))
        box = (left, top, min(right, picture.width), min(bottom, picture.height))  # a rounded end may lie beyond it
        within = picture.resize((high[0] - low[0], high[1] - low[1]), Image.Resampling.BILINEAR, box)
        whole.paste(within, (low[0], low[1]))
    return whole


def lit(picture: Image.Image, exposure: Exposure) -> Image.Image:
    """What light and glare make of an RGBA picture; ordinary light makes nothing of it."""
    if (exposure.gain, exposure.veil) == (1.0, 0.0):
        return picture
    return picture.point(_levels_of(exposure.gain, exposure.veil))


@functools.lru_cache(maxsize=64)
def _levels_of(gain: float, veil: float) -> list[int]:
    table = [min(255, max(0, round(value * gain + veil))) for value in range(256)]
    return table * 3 + list(range(256))


def _soften(sprite: Sprite, blur: float, smear: tuple[float, float]) -> Sprite:
    """Out of focus, and smeared along a movement in pixels."""
    length = math.hypot(*smear)
    if blur == 0 and length < 1:
        return sprite
    picture = sprite.picture.convert("RGBa")
    if blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(blur))
    if length >= 1:
        picture = _smeared(picture, smear, min(SMEAR_COPIES, math.ceil(length) + 1))
    return Sprite(picture.convert("RGBA"), sprite.x, sprite.y)


def _smeared(picture: Image.Image, smear: tuple[float, float], copies: int) -> Image.Image:
    array = np.asarray(picture)
    total = np.zeros(array.shape, np.uint16)
    height, width = array.shape[:2]
    for copy in range(copies):
        share = copy / (copies - 1) - 0.5
        dx, dy = round(share * smear[0]), round(share * smear[1])
        source = array[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        total[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)] += source
    return Image.frombytes("RGBa", picture.size, (total // copies).astype(np.uint8).tobytes())


def _limited(pixels: float) -> float:
    return min(MAX_SMEAR, max(-MAX_SMEAR, pixels))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
