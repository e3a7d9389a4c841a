# SPDX-License-Identifier: Apache-2.0
"""YuNet heads (Wu et al. 2023; libfacedetection.train), decoded as OpenCV's FaceDetectorYN does.

Per stride s of 8, 16, 32 and n = h/s * w/s cells: ``cls_s`` and ``obj_s`` (n, 1) are probabilities, the score is
sqrt(cls * obj); ``bbox_s`` (n, 4) holds the centre's offset from (x s, y s) in units of s and the logarithm of width
and height in units of s; ``kps_s`` (n, 10) the landmark offsets in units of s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.detect.decoders.common import Candidates, Floats, Output, grid, join, reachable
from agent.inference.manifest import ModelEntry

STRIDES = (8, 16, 32)
MAX_LOG_SIZE = np.float32(8)  # e^8 strides is wider than any picture; keeps exp finite for whatever a model says


class YuNetDecoder:
    """Decodes the heads of one model at one threshold."""

    def __init__(self, entry: ModelEntry, threshold: float) -> None:
        self._threshold = np.float32(threshold)
        self._levels = reachable(entry, threshold, [_level(entry, threshold, stride) for stride in STRIDES])

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return the cells that score at least the threshold."""
        parts = []
        for stride, points, cls, obj, least, box, marks in self._levels:
            rows = ((cls.table(raw) >= least[0]) & (obj.table(raw) >= least[1])).nonzero()[0]
            if not rows.size:
                continue
            scores = np.sqrt(cls.take(raw, rows).clip(0, 1) * obj.take(raw, rows).clip(0, 1))
            rows, scores = rows[scores >= self._threshold], scores[scores >= self._threshold]
            if not rows.size:
                continue
            point = points[rows]
            shape = box.take(raw, rows)
            centre = point + shape[:, :2] * stride
            half = np.exp(shape[:, 2:].clip(None, MAX_LOG_SIZE)) * (stride / 2)
            landmarks = marks.take(raw, rows).reshape(-1, 5, 2) * stride + point[:, None]
            parts.append(Candidates(np.concatenate([centre - half, centre + half], 1), landmarks, scores))
        return join(parts)


def _level(
    entry: ModelEntry, threshold: float, stride: int
) -> tuple[np.float32, Floats, Output, Output, tuple[np.generic, np.generic], Output, Output] | None:
    points = grid(entry.input.width, entry.input.height, stride, offset=0)
    cls, obj = (Output(entry, f"{head}_{stride}", len(points), 1) for head in ("cls", "obj"))
    box = Output(entry, f"bbox_{stride}", len(points), 4)
    marks = Output(entry, f"kps_{stride}", len(points), 10)
    # Both factors are at most 1, so each alone must reach the square: a test on raw values that loses nothing.
    least = cls.least(threshold**2), obj.least(threshold**2)
    if least[0] is None or least[1] is None:
        return None
    return np.float32(stride), points, cls, obj, (least[0], least[1]), box, marks
