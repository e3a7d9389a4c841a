# SPDX-License-Identifier: Apache-2.0
"""What may hide part of a face: drawn into a stored picture, so that it turns with the head."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageDraw

from agent.camera.scene.pose import PICTURE_MARGIN, PICTURE_SCALE, PICTURE_SIDE

_FINE: Final = 4  # supersampling of the edges
_STROKE: Final = (30, 26, 24, 255)
_MASK: Final = ((12, 70), (38, 63), (56, 60), (74, 63), (100, 70), (97, 96), (80, 118), (56, 124), (32, 118), (15, 96))


def cover(picture: Image.Image, kind: str, skin: tuple[int, int, int]) -> None:
    """Draw a mask, glasses, sunglasses, a hat or a hand into ``picture`` (RGBA, PICTURE_SIDE), in place."""
    layer = Image.new("RGBA", (PICTURE_SIDE * _FINE, PICTURE_SIDE * _FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    match kind:
        case "mask":
            draw.polygon(_at(*_MASK), (196, 214, 226, 255))
            for y in (80, 92, 104):
                draw.line(_at((18, y), (56, y + 3), (94, y)), (168, 188, 202, 255), 2 * _FINE)
        case "glasses":
            _glasses(draw, (210, 225, 235, 50))
        case "sunglasses":
            _glasses(draw, (20, 20, 24, 235))
        case "hat":
            draw.pieslice(_at((2, -23), (110, 75)), 180, 360, (58, 62, 84, 255))
            draw.rounded_rectangle(_at((-8, 22), (120, 32)), 5 * _FINE, (44, 47, 66, 255))
        case "hand":
            draw.rounded_rectangle(_at((30, 74), (92, 134)), 14 * _FINE, (*skin, 255))
            for x, tip in ((32, 51), (47, 46), (62, 47), (77, 52)):
                draw.rounded_rectangle(_at((x, tip), (x + 12.5, 90)), 6 * _FINE, (*skin, 255), (90, 60, 50, 255), _FINE)
        case _:
            raise ValueError(f"unknown cover: {kind}")
    picture.alpha_composite(layer.resize(picture.size, Image.Resampling.BOX))


def _glasses(draw: ImageDraw.ImageDraw, lens: tuple[int, int, int, int]) -> None:
    for eye in (38.3, 73.5):
        draw.ellipse(_at((eye - 15, 41), (eye + 15, 64)), lens, _STROKE, 2 * _FINE)
    for ends in (((52, 50), (60, 50)), ((23, 50), (6, 47)), ((89, 50), (106, 47))):
        draw.line(_at(*ends), _STROKE, 3 * _FINE)


def _at(*points: tuple[float, float]) -> list[tuple[float, float]]:
    """Template pixels to the layer's."""
    factor = PICTURE_SCALE * _FINE
    return [((x + PICTURE_MARGIN) * factor, (y + PICTURE_MARGIN) * factor) for x, y in points]
