# SPDX-License-Identifier: Apache-2.0
"""A simple standing figure below a demo person's head, in the person's colours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BODY_SCALE: Final = 2  # stored pixels per pixel of the drawing: it has no detail
BODY_TOP, BODY_BOTTOM = 62, 960  # stored pixels below the face's middle; with the head about 7.5 heads tall
BODY_HALF_WIDTH: Final = 156  # stored pixels
BODY_HALVINGS: Final = (
    4  # of the drawing, for who stands far off: enough for a face of four pixels, the least of a script
)

Colour = tuple[int, int, int]


def body(skin: Colour, cloth: Colour) -> Image.Image:
    """RGBA from the collar down, at 1/BODY_SCALE of the stored pictures' scale."""
    figure = Image.new("RGBA", (2 * BODY_HALF_WIDTH, BODY_BOTTOM - BODY_TOP), (*cloth, 0))
    draw = ImageDraw.Draw(figure)

    def part(points: Iterable[tuple[float, float]], colour: Colour) -> None:
        draw.polygon([(BODY_HALF_WIDTH + x, y - BODY_TOP) for x, y in points], (*colour, 255))

    part([(-84, 470), (84, 470), (70, 930), (20, 930), (0, 560), (-20, 930), (-70, 930)], _darker(cloth, 5))
    for side in (-1, 1):
        part([(side * x, y) for x, y in ((20, 925), (74, 925), (80, 955), (20, 955))], (35, 33, 32))
        part([(side * x, y) for x, y in ((96, 455), (124, 455), (120, 500), (100, 500))], skin)
        sleeve = ((96, 100), (126, 124), (134, 210), (130, 460), (98, 460), (94, 200))
        part([(side * x, y) for x, y in sleeve], _darker(cloth, 9))
    neckline = [(x, 84 - 12 * (x / 44) ** 2) for x in range(-44, 45, 4)]
    torso = [(60, 78), (100, 94), (122, 122), (98, 210), (88, 330), (94, 490)]
    part([*neckline, *torso, *((-x, y) for x, y in reversed(torso))], cloth)
    part([*neckline, *((x, y + 7) for x, y in reversed(neckline))], _darker(cloth, 7))
    rgba = np.asarray(figure.filter(ImageFilter.GaussianBlur(1)).reduce(BODY_SCALE)).astype(np.float32)
    x = np.linspace(-1, 1, rgba.shape[1], dtype=np.float32)[None, :, None]
    rgba[..., :3] *= 1.05 - 0.3 * x**2  # light from the front
    return Image.fromarray(np.clip(rgba, 0, 255).astype(np.uint8))


def _darker(colour: Colour, tenths: int) -> Colour:
    return colour[0] * tenths // 10, colour[1] * tenths // 10, colour[2] * tenths // 10
