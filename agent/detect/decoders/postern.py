# SPDX-License-Identifier: Apache-2.0
"""The head of this project's own detectors.

Per stride s of 8, 16, 32: ``score_s`` (1, h/s, w/s, 1) is a logit; ``geometry_s`` (1, h/s, w/s, 14) holds the distances
from the cell's centre ((x + 0.5) s, (y + 0.5) s) to the left, top, right and bottom edge in units of s, then dx, dy of
the five landmarks from that centre in units of s. Anchor-free regression as in FCOS (Tian et al. 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.detect.decoders.common import Candidates, Floats, Output, corners, grid, join, logit, reachable, sigmoid
from agent.inference.manifest import ModelEntry

STRIDES = (8, 16, 32)


class PosternDecoder:
    """Decodes the head of one model at one threshold."""

    def __init__(self, entry: ModelEntry, threshold: float) -> None:
        self._levels = reachable(entry, threshold, [_level(entry, threshold, stride) for stride in STRIDES])

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return the cells that score at least the threshold."""
        parts = []
        for stride, centres, score, least, geometry in self._levels:
            rows = (score.table(raw) >= least).nonzero()[0]
            if rows.size:
                centre = centres[rows]
                reach = geometry.take(raw, rows)
                reach *= stride
                landmarks = reach[:, 4:].reshape(-1, 5, 2) + centre[:, None]
                parts.append(Candidates(corners(centre, reach[:, :4]), landmarks, sigmoid(score.take(raw, rows))))
        return join(parts)


def _level(
    entry: ModelEntry, threshold: float, stride: int
) -> tuple[np.float32, Floats, Output, np.generic, Output] | None:
    centres = grid(entry.input.width, entry.input.height, stride, offset=0.5)
    score = Output(entry, f"score_{stride}", len(centres), 1)
    geometry = Output(entry, f"geometry_{stride}", len(centres), 14)
    least = score.least(logit(threshold))
    return None if least is None else (np.float32(stride), centres, score, least, geometry)
