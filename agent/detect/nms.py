# SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression, and the blending of answers that agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

BLEND_IOU = 0.7  # answers that overlap this much are of one face; less, and a neighbour could pull the landmarks away


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
        shared = _overlap(x0, y0, x1, y1, x0[index], y0[index], x1[index], y1[index])
        alive &= shared <= iou * (area + area[index] - shared)
        alive[index] = False
        index = int(np.argmax(alive))
        if not alive[index]:
            break
    return kept


def blend(
    boxes: NDArray[np.float32], landmarks: NDArray[np.float32], scores: NDArray[np.float32], kept: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (k, 4) and landmarks (k, 5, 2) of the kept answers, averaged with those that agree.

    Several cells answer for one face; their errors are nearly independent, so the mean weighted by the square of the
    score is steadier than the best alone (BlazeFace, Bazarevsky et al. 2019, sec. 3.4).
    """
    chosen = boxes[kept]
    shared = _overlap(*np.ascontiguousarray(boxes.T), *np.ascontiguousarray(chosen.T)[:, :, None])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    weights = np.square(scores) * (shared > BLEND_IOU * (area[kept][:, None] + area - shared))
    weights /= weights.sum(1, keepdims=True)
    return weights @ boxes, (weights @ landmarks.reshape(-1, 10)).reshape(-1, 5, 2)


def _overlap(
    x0: Values, y0: Values, x1: Values, y1: Values, left: Values, top: Values, right: Values, bottom: Values
) -> Values:
    """Area shared by boxes, each a row of coordinates or anything that broadcasts with one."""
    wide = np.minimum(x1, right)
    wide -= np.maximum(x0, left)
    high = np.minimum(y1, bottom)
    high -= np.maximum(y0, top)
    np.maximum(wide, 0, out=wide)
    wide *= np.maximum(high, 0, out=high)
    return wide
