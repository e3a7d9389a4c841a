# SPDX-License-Identifier: Apache-2.0
"""Which part of the picture the detector is shown: all of it, or the zone with a margin, as large as resolves faces.

A part of the picture has more pixels a face in the same input than all of it, so smaller or farther faces are found;
that the input is a large one is needed only where the zone is large and the faces are small.
"""

from __future__ import annotations

import msgspec

from agent.camera.base import Box, lores_scale

Part = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the picture

WHOLE: Part = (0.0, 0.0, 1.0, 1.0)
MARGIN_FACES = 1.5  # sizes of the smallest face around a zone: who steps into it is followed already
# Side of a face in pixels of the network's input: what is needed, and what a view is made for. Of 200 photos (LFW) with
# faces of 8, 12, 16, 20, 24 and 32 pixels detector-320x240 finds 0.16, 0.66, 0.75, 0.87, 0.97 and 0.99 in one frame.
LEAST_INPUT_PX, GOOD_INPUT_PX = 16, 24


def box_of(part: Part, width: int, height: int) -> Box:
    """``part`` of a picture of that size in pixels, at least one, edges at even numbers, where colour samples begin."""
    x0, y0 = (min(int(share * side), side - 1) // 2 * 2 for share, side in ((part[0], width), (part[1], height)))
    return x0, y0, min(max(round(part[2] * width), x0 + 1), width), min(max(round(part[3] * height), y0 + 1), height)


def grown(part: Part, pixels: float, width: int, height: int) -> Part:
    """``part`` with so many pixels more on each side, as far as the picture reaches."""
    across, down = pixels / width, pixels / height
    x0, y0, x1, y1 = part
    return max(x0 - across, 0.0), max(y0 - down, 0.0), min(x1 + across, 1.0), min(y1 + down, 1.0)


class ZoneView(msgspec.Struct, frozen=True):
    """The detector's view of a zone: ``part`` with a margin, in the shape of the input, in pictures of any size.

    It is as large as lets the smallest accepted face have ``GOOD_INPUT_PX``, and larger only where the zone is.
    """

    part: Part
    min_face_px: int

    def box(self, size: tuple[int, int], input_size: tuple[int, int]) -> Box:
        """In pixels of a picture of ``size`` (w, h), for an input of ``input_size``."""
        width, height = size
        x0, y0, x1, y1 = box_of(grown(self.part, MARGIN_FACES * self.min_face_px, *size), *size)
        scale = min(lores_scale(x1 - x0, y1 - y0, *input_size), GOOD_INPUT_PX / self.min_face_px)
        x0, x1 = _widened(x0, x1, round(input_size[0] / scale), width)
        y0, y1 = _widened(y0, y1, round(input_size[1] / scale), height)
        return x0, y0, x1, y1


def _widened(start: int, end: int, wanted: int, limit: int) -> tuple[int, int]:
    """An interval of ``wanted`` around ``start`` to ``end`` within 0 to ``limit``; never a shorter one."""
    wanted = min(max(wanted, end - start), limit)
    start = min(max((start + end - wanted) // 2, 0), limit - wanted) // 2 * 2
    return start, min(start + wanted, limit)


def smallest_input_px(box: Box, input_size: tuple[int, int], min_face_px: int) -> float:
    """Side of the smallest accepted face in pixels of the network's input, where it shows ``box``."""
    x0, y0, x1, y1 = box
    return min_face_px * lores_scale(x1 - x0, y1 - y0, *input_size)
