# SPDX-License-Identifier: Apache-2.0
"""The record that detection yields."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

# Row order of landmarks, as in YuNet, RetinaFace and the ArcFace template, left and right as seen in the image.
LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)


class Face(msgspec.Struct, frozen=True, eq=False):
    """One detected face, in pixels of the frame's main picture.

    ``box`` is x0, y0, x1, y1 (may reach over the edge); ``landmarks`` float32 (5, 2) as x, y;
    ``score`` is the detector's confidence in [0, 1] and stays inside the unit.
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float32]
    score: float

    @property
    def width(self) -> float:
        """Pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Pixels."""
        return self.box[3] - self.box[1]
