# SPDX-License-Identifier: Apache-2.0
"""The head of this project's own detectors.

Per stride s of 8, 16, 32: ``score_s`` (1, h/s, w/s, 1) is a logit; ``geometry_s`` (1, h/s, w/s, 14) holds the distances
from the cell's centre ((x + 0.5) s, (y + 0.5) s) to the left, top, right and bottom edge in units of s, then dx, dy of
the five landmarks from that centre in units of s. Anchor-free regression as in FCOS (Tian et al. 2019).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.detect.decoders.common import Candidates, Floats, Output, grid, join, logit, reachable, sigmoid
from agent.inference.manifest import ModelEntry

STRIDES = (8, 16, 32)
VALUES = 14  # of a cell: four distances, five landmarks
TOWARDS = np.array([-1, -1] + [1] * (VALUES - 2), np.float32)  # from a centre: left and up are against the axes


class _Level(msgspec.Struct, frozen=True, eq=False):
    """One stride: ``centres`` (cells, 2); a cell's values lie at ``raw * factor + offset`` from its centre."""

    centres: Floats
    score: Output
    least: np.generic
    geometry: Output
    factor: Floats
    offset: Floats


class PosternDecoder:
    """Decodes the head of one model at one threshold."""

    def __init__(self, entry: ModelEntry, threshold: float) -> None:
        self._levels = reachable(entry, threshold, [_level(entry, threshold, stride) for stride in STRIDES])

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return the cells that score at least the threshold."""
        parts = []
        for level in self._levels:
            rows = (level.score.table(raw) >= level.least).nonzero()[0]
            if rows.size:
                values: Floats = level.geometry.table(raw)[rows] * level.factor
                values += level.offset
                points = values.reshape(-1, VALUES // 2, 2)
                points += level.centres[rows][:, None]
                parts.append(Candidates(values[:, :4], points[:, 2:], sigmoid(level.score.take(raw, rows))))
        return join(parts)


def _level(entry: ModelEntry, threshold: float, stride: int) -> _Level | None:
    centres = grid(entry.input.width, entry.input.height, stride, offset=0.5)
    score = Output(entry, f"score_{stride}", len(centres), 1)
    geometry = Output(entry, f"geometry_{stride}", len(centres), VALUES)
    least = score.least(logit(threshold))
    if least is None:
        return None
    factor = geometry.scale * np.float32(stride) * TOWARDS
    return _Level(centres, score, least, geometry, factor, -geometry.zero_point * factor)
