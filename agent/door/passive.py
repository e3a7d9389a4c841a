# SPDX-License-Identifier: Apache-2.0
"""The passive part of liveness: what a small network makes of a face and of what surrounds it.

It sees two square cuts of a frame, 2.7 and 4 face sizes wide, as its teachers do (Silent-Face, minivision): the rim of
a sheet or a screen, hands, glare, colours of ink. Alone it is weak, and it was never measured on a real attack
(models/README.md): it may refuse whom the challenge passed and never passes anybody by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from agent.camera.base import Frame, Picture, Rgb
from agent.door.evidence import Part

SIDE = 80  # pixels of a side of each cut
REACHES = (2.7, 4.0)  # sides of the cuts, in face sizes (root of the box's area); of the teachers
LEAST_SIDE = SIDE  # pixels of the frame: a smaller cut has nothing to see


def cuts(picture: Picture, box: Sequence[float]) -> Rgb | None:
    """Both cuts around a face's box (x0, y0, x1, y1), one above the other: uint8 (160, 80, 3).

    A cut that is larger than the picture shrinks to it, one that reaches over its edge is moved inside, as the
    teachers have it. None where the box is none, or too small to see anything.
    """
    x0, y0, x1, y1 = box
    area = (x1 - x0) * (y1 - y0)
    if not (x1 > x0 and y1 > y0 and math.isfinite(area)):
        return None
    parts = []
    for reach in REACHES:
        side = min(reach * math.sqrt(area), float(picture.width), float(picture.height))
        if side < LEAST_SIDE:
            return None
        left = min(max((x0 + x1 - side) / 2, 0.0), picture.width - side)
        top = min(max((y0 + y1 - side) / 2, 0.0), picture.height - side)
        parts.append(picture.scaled((left, top, left + side, top + side), SIDE))
    return np.concatenate(parts)


def passive_part(answer: Callable[[Rgb], float], edge: float) -> Part:
    """``answer`` gives the network's logit for what ``cuts`` gives; that is overwritten afterwards."""

    def look(frame: Frame, box: Sequence[float]) -> float | None:
        seen = cuts(frame.main, box)
        if seen is None:
            return None
        said = answer(seen)
        seen.fill(0)
        return said

    return Part(look, edge)
