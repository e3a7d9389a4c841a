# SPDX-License-Identifier: Apache-2.0
"""The second look: whether a candidate is a face, and where exactly its five landmarks are.

A detector that looks at every cell of a small picture is fast and coarse. Its candidates are few, so a small network
may look at each of them at 64x64: it refuses what is no face and places the landmarks that alignment depends on
(the last stage of a cascade: MTCNN's output network, Zhang et al. 2016).
"""

from __future__ import annotations

import math

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import LORES_BORDER, Picture, Rgb
from agent.detect.decoders.common import logit
from agent.detect.face import Face
from agent.errors import ModelError
from agent.inference.engine import Engine

PATCH = 64  # pixels of a side of the network's input
MARGIN = 1.5  # side of the patch in face sizes (square root of the box area): hair, chin and the box's error fit in
POINTS = 5
LARGEST = 2.0  # sides of the picture: a larger patch shows no face, and a hostile box must not cost memory
# How much the detector's own answer weighs against the second look when their logits are averaged: a real face under
# strong pose or glasses convinces one of the two, a wall rarely both. Of 0, 0.5, 1, 2, 3 and 5 the weight that keeps
# most faces where one empty picture in a hundred has a false one, on photos that serve no other measurement.
FIRST_LOOK = 2.0
SURE = 1e-6  # scores are kept this far from 0 and 1, where logits end


def cut(picture: Picture, centre: NDArray[np.floating], side: float) -> Rgb:
    """Return the square around ``centre`` (x, y) as uint8 (64, 64, 3) RGB; grey where it reaches over the edge.

    ``centre`` and ``side`` in pixels of ``picture``, edges at whole numbers. Large squares are averaged down.
    """
    left, top = float(centre[0]) - side / 2, float(centre[1]) - side / 2
    if left >= 0 and top >= 0 and left + side <= picture.width and top + side <= picture.height:
        return picture.scaled((left, top, left + side, top + side), PATCH)
    x0, y0 = math.floor(left), math.floor(top)
    extent = max(math.ceil(left + side) - x0, math.ceil(top + side) - y0, 1)
    window = picture.window(x0, y0, x0 + extent, y0 + extent)
    if window.shape[:2] != (extent, extent):
        whole = np.full((extent, extent, 3), LORES_BORDER, np.uint8)
        if window.size:
            row, column = max(-y0, 0), max(-x0, 0)
            whole[row : row + window.shape[0], column : column + window.shape[1]] = window
        window = whole
    box = (left - x0, top - y0, min(left - x0 + side, extent), min(top - y0 + side, extent))
    return np.asarray(Image.fromarray(window).resize((PATCH, PATCH), Image.Resampling.BILINEAR, box))


class Landmarker:
    """The network of the second look with its working point. Single-threaded, like its engine.

    Its outputs are ``score``, a logit, and ``landmarks``: five x, y in shares of the patch from its middle.
    """

    def __init__(self, engine: Engine, *, score_threshold: float | None = None) -> None:
        """Raise ModelError when the engine's model is none for landmarks or the threshold is out of range."""
        entry = engine.entry
        threshold = score_threshold if score_threshold is not None else entry.score_threshold
        if entry.task != "landmarks" or (entry.input.width, entry.input.height) != (PATCH, PATCH):
            raise ModelError(f"model {entry.name}: landmarks are looked for in patches of {PATCH}x{PATCH} pixels")
        if threshold is None or not 0 < threshold < 1:
            raise ModelError(f"model {entry.name}: score_threshold must be between 0 and 1")
        self.engine = engine
        self._logit = logit(threshold)

    def look(self, picture: Picture, face: Face) -> Face | None:
        """Return ``face``, given in pixels of ``picture``, with its landmarks placed anew; None if it is no face.

        Its score becomes that of both looks together.
        """
        x0, y0, x1, y1 = face.box
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        side = math.sqrt(face.width * face.height) * MARGIN
        if not 1 <= side <= LARGEST * max(picture.width, picture.height):
            return None
        raw = self.engine.run(cut(picture, centre, side))
        first = logit(min(max(face.score, SURE), 1 - SURE))
        both = (FIRST_LOOK * first + self.engine.dequantise("score", raw["score"]).item()) / (FIRST_LOOK + 1)
        if both < self._logit:
            return None
        marks = self.engine.dequantise("landmarks", raw["landmarks"]).reshape(POINTS, 2) * side + centre
        return replace(face, landmarks=marks.astype(np.float32), score=1 / (1 + math.exp(-both)))
