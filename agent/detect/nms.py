# SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float, limit: int) -> list[int]:
    """Return the indices to keep, best score first, at most ``limit``.

    ``boxes`` (n, 4) as x0, y0, x1, y1 with positive sides, ``scores`` (n,). A box goes when its intersection over
    union with a kept one is above ``iou``. Equal scores keep their order. The cost grows with n times ``limit``.
    """
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)
    area = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), np.bool_)
    kept: list[int] = []
    index = 0
    while len(kept) < limit:
        kept.append(int(order[index]))
        wide = np.minimum(x1, x1[index]) - np.maximum(x0, x0[index])
        high = np.minimum(y1, y1[index]) - np.maximum(y0, y0[index])
        shared = wide.clip(0) * high.clip(0)
        alive &= shared <= iou * (area + area[index] - shared)
        alive[index] = False
        index = int(alive.argmax())
        if not alive[index]:
            break
    return kept
