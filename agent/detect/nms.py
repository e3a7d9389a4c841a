# SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression, and the blending of answers that agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]  # x0, y0, x1, y1

BLEND_IOU = 0.7  # answers that overlap this much are of one face; less, and a neighbour could pull the landmarks away


def nms(boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float, limit: int) -> list[int]:
    """Return the indices to keep, best score first, at most ``limit``.

    ``boxes`` (n, 4) as x0, y0, x1, y1 with positive sides, ``scores`` (n,). A box goes when its intersection over
    union with a kept one is above ``iou``. Equal scores keep their order. The cost grows with n times ``limit``.
    Numbers one by one: of a face there are about ten answers, for which a call of numpy costs more than its work.
    """
    places, best = boxes.tolist(), scores.tolist()
    rest = sorted(range(len(best)), key=best.__getitem__, reverse=True)
    kept: list[int] = []
    while rest and len(kept) < limit:
        first = rest[0]
        kept.append(first)
        rest = [index for index in rest[1:] if not overlaps(places[first], places[index], iou)]
    return kept


def blend(
    boxes: NDArray[np.float32], landmarks: NDArray[np.float32], scores: NDArray[np.float32], kept: list[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes (k, 4) and landmarks (k, 5, 2) of the kept answers, averaged with those that agree.

    Several cells answer for one face; their errors are nearly independent, so the mean weighted by the square of the
    score is steadier than the best alone (BlazeFace, Bazarevsky et al. 2019, sec. 3.4).
    """
    places, squared = boxes.tolist(), np.square(scores)
    weights = np.zeros((len(kept), len(places)), np.float32)
    for row, first in zip(weights, kept, strict=True):
        agree = [index for index, place in enumerate(places) if overlaps(places[first], place, BLEND_IOU)]
        row[agree] = squared[agree]
    weights /= weights.sum(1, keepdims=True)
    return weights @ boxes, (weights @ landmarks.reshape(-1, 10)).reshape(-1, 5, 2)


def overlaps(a: Box, b: Box, iou: float) -> bool:
    """Whether two boxes share more than ``iou`` of what they cover together."""
    ax0, ay0, ax1, ay1 = a
    bx0, by0, bx1, by1 = b
    if ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0:
        return False
    shared = (min(ax1, bx1) - max(ax0, bx0)) * (min(ay1, by1) - max(ay0, by0))
    return shared > iou * ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)
