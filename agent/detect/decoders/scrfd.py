# SPDX-License-Identifier: Apache-2.0
"""SCRFD heads with landmarks (Guo et al. 2021; insightface, detection/scrfd).

Per stride s of 8, 16, 32 with two anchors per cell at (x s, y s): ``score_s`` (n, 1) is a probability; ``bbox_s``
(n, 4) holds the distances to left, top, right and bottom in units of s; ``kps_s`` (n, 10) the landmark offsets in
units of s. n = h/s * w/s * 2, the anchors of one cell adjacent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.detect.decoders.common import Candidates, Floats, Output, corners, grid, join, reachable
from agent.inference.manifest import ModelEntry

STRIDES = (8, 16, 32)
ANCHORS = 2


class ScrfdDecoder:
    """Decodes the heads of one model at one threshold."""

    def __init__(self, entry: ModelEntry, threshold: float) -> None:
        self._levels = reachable(entry, threshold, [_level(entry, threshold, stride) for stride in STRIDES])

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return the anchors that score at least the threshold."""
        parts = []
        for stride, points, score, least, box, marks in self._levels:
            rows = (score.table(raw) >= least).nonzero()[0]
            if rows.size:
                point = points[rows]
                landmarks = marks.take(raw, rows).reshape(-1, 5, 2) * stride + point[:, None]
                boxes = corners(point, box.take(raw, rows) * stride)
                parts.append(Candidates(boxes, landmarks, score.take(raw, rows)))
        return join(parts)


def _level(
    entry: ModelEntry, threshold: float, stride: int
) -> tuple[np.float32, Floats, Output, np.generic, Output, Output] | None:
    points = grid(entry.input.width, entry.input.height, stride, offset=0, anchors=ANCHORS)
    score = Output(entry, f"score_{stride}", len(points), 1)
    box = Output(entry, f"bbox_{stride}", len(points), 4)
    marks = Output(entry, f"kps_{stride}", len(points), 10)
    least = score.least(threshold)
    return None if least is None else (np.float32(stride), points, score, least, box, marks)
