# SPDX-License-Identifier: Apache-2.0
"""Backgrounds of scenes: plain, gradient, or a room with a door that is invented from a number."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agent.camera.base import Rgb
from agent.camera.scene.script import Gradient, Plain, Room

_Colour = NDArray[np.float64]  # red, green, blue, 0-255, not yet clipped

_FINE = 2  # rooms are drawn this much larger and reduced: straight edges without steps


@functools.lru_cache(maxsize=2)  # one of a scene and one of an enrolment: 3 MB each at 720p
def background(kind: Plain | Gradient | Room, width: int, height: int) -> Rgb:
    """uint8 (height, width, 3), to be read alone."""
    drawn = _drawn(kind, width, height)
    drawn.setflags(write=False)
    return drawn


def _drawn(kind: Plain | Gradient | Room, width: int, height: int) -> Rgb:
    match kind:
        case Plain():
            return np.full((height, width, 3), _rgb(kind.colour), np.uint8)
        case Gradient():
            share = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
            column = (1 - share) * _rgb(kind.top) + share * _rgb(kind.bottom)
            return np.broadcast_to(column + 0.5, (height, width, 3)).astype(np.uint8)
        case Room():
            return _room(kind, width, height)


def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def _room(room: Room, width: int, height: int) -> Rgb:
    rng = np.random.default_rng(room.variant)
    w, h = width * _FINE, height * _FINE
    wall = rng.uniform(150, 205) + rng.uniform(-7, 7, 3)
    floor = rng.uniform(70, 130) + rng.uniform(-10, 10, 3)
    wood = rng.uniform(80, 190) + np.array([22, 0, -26]) * rng.uniform(-0.3, 1.2)
    skirting = h * rng.uniform(0.78, 0.86)
    picture = Image.new("RGB", (w, h), _ink(wall))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, skirting, w, h), _ink(floor))
    for k in range(-12, 13):  # boards that run towards the camera
        draw.line((w / 2 + k * w * 0.07, skirting, w / 2 + k * w * 0.16, h), _ink(floor * 0.86), _FINE)
    draw.rectangle((0, skirting - h * 0.022, w, skirting), _ink(wall * 1.12))
    draw.line((0, skirting, w, skirting), _ink(floor * 0.6), 2 * _FINE)
    if room.window:
        _window(draw, w * rng.uniform(0.05, 0.12), h * 0.14, w * 0.2, h * 0.4, wall)
    if room.door:
        _door(draw, (w * rng.uniform(0.34, 0.5), h * 0.1, h * 0.36, skirting), wood, wall, rng)
    picture = picture.reduce(_FINE)
    return _lit(np.asarray(picture, np.float32), rng)


def _window(draw: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, wall: _Colour) -> None:
    draw.rectangle((x - w * 0.06, y - h * 0.05, x + w * 1.06, y + h * 1.06), _ink(wall * 1.15))
    for row in range(2):
        for column in range(2):
            left, top = x + column * w * 0.52, y + row * h * 0.52
            draw.rectangle((left, top, left + w * 0.48, top + h * 0.48), (226, 234, 242))


def _door(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    wood: _Colour,
    wall: _Colour,
    rng: np.random.Generator,
) -> None:
    x, top, width, bottom = box
    frame = width * 0.06
    draw.rectangle((x - frame, top - frame, x + width + frame, bottom), _ink(wall * 0.86))
    draw.rectangle((x, top, x + width, bottom), _ink(wood))
    for _ in range(60):  # grain
        at = x + rng.uniform(0, width)
        draw.line((at, top, at + rng.uniform(-6, 6), bottom), _ink(wood * rng.uniform(0.94, 1.04)), _FINE)
    for low, high in ((0.06, 0.42), (0.5, 0.92)):
        panel = (x + width * 0.16, top + (bottom - top) * low, x + width * 0.84, top + (bottom - top) * high)
        draw.rectangle(panel, outline=_ink(wood * 0.78), width=3 * _FINE)
    handle = top + (bottom - top) * 0.55
    draw.rounded_rectangle(
        (x + width * 0.06, handle, x + width * 0.17, handle + width * 0.03), 4 * _FINE, (190, 190, 186)
    )


def _lit(array: NDArray[np.float32], rng: np.random.Generator) -> Rgb:
    """Light that falls off to the sides, and the unevenness of a painted wall."""
    height, width = array.shape[:2]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    falloff = 1.06 - 0.16 * (x - rng.uniform(-0.5, 0.5)) ** 2 - 0.08 * (y + 0.6) ** 2
    coarse = Image.fromarray(rng.normal(0, 3, (12, 20)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    lit = array * falloff[..., None] + np.asarray(coarse, np.float32)[..., None]
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def _ink(colour: _Colour) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in np.clip(colour, 0, 255))
    return red, green, blue
