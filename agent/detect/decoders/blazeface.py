# SPDX-License-Identifier: Apache-2.0
"""BlazeFace short-range (Bazarevsky et al. 2019; MediaPipe face_detection_short_range).

``scores`` (1, 896, 1) are logits; ``regressors`` (1, 896, 16) hold the centre's offset from the anchor, width, height
and six keypoint offsets, all in pixels of the input. Anchors sit at cell centres: two per cell of a 16x16 grid, then
six per cell of an 8x8 grid, all of the size of the picture (fixed anchor size).

BlazeFace knows the middle of the mouth, not its corners, and two ears. The corners are put where the ArcFace template
has them: on both sides of the middle, along the line of the eyes, 0.414 eye distances away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.detect.decoders.common import Candidates, Output, grid, join, logit, reachable, sigmoid
from agent.errors import ModelError
from agent.inference.manifest import ModelEntry

GRIDS = ((16, 2), (8, 6))  # cells along each side, anchors per cell
HALF_MOUTH = np.float32(0.414)  # of the eye distance: (70.73 - 41.55) / (73.53 - 38.29) / 2 of the template


class BlazeFaceDecoder:
    """Decodes the outputs of one model at one threshold."""

    def __init__(self, entry: ModelEntry, threshold: float) -> None:
        side = entry.input.width
        if side != entry.input.height or side % GRIDS[0][0]:
            raise ModelError(f"model {entry.name}: blazeface needs a square input with a multiple of 16 pixels")
        self._anchors = np.concatenate(
            [grid(side, side, side // cells, offset=0.5, anchors=anchors) for cells, anchors in GRIDS]
        )
        self._scores = Output(entry, "scores", len(self._anchors), 1)
        self._regressors = Output(entry, "regressors", len(self._anchors), 16)
        (self._least,) = reachable(entry, threshold, [self._scores.least(logit(threshold))])

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return the anchors that score at least the threshold."""
        rows = (self._scores.table(raw) >= self._least).nonzero()[0]
        if not rows.size:
            return join(())
        points = self._regressors.take(raw, rows).reshape(-1, 8, 2)  # centre, size, six keypoints
        half = points[:, 1] / 2
        points += self._anchors[rows][:, None]
        landmarks = points[:, [2, 3, 4, 5, 5]]  # eyes, nose, middle of the mouth twice
        across = (points[:, 3] - points[:, 2]) * HALF_MOUTH
        landmarks[:, 3] -= across
        landmarks[:, 4] += across
        boxes = np.concatenate([points[:, 0] - half, points[:, 0] + half], 1)
        return join((Candidates(boxes, landmarks, sigmoid(self._scores.take(raw, rows))),))
