# SPDX-License-Identifier: Apache-2.0
"""Greedy non-maximum suppression, and the blending of answers that agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
        wide = np.minimum(x1, x1[index]) - np.maximum(x0, x0[index])
        high = np.minimum(y1, y1[index]) - np.maximum(y0, y0[index])
        shared = wide.clip(0) * high.clip(0)
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
    wide = np.minimum(chosen[:, None, 2], boxes[None, :, 2]) - np.maximum(chosen[:, None, 0], boxes[None, :, 0])
    high = np.minimum(chosen[:, None, 3], boxes[None, :, 3]) - np.maximum(chosen[:, None, 1], boxes[None, :, 1])
    shared = wide.clip(0) * high.clip(0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    agree = shared > BLEND_IOU * (area[kept][:, None] + area[None] - shared)
    weights = np.where(agree, np.square(scores), np.float32(0)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    return weights @ boxes, np.einsum("kn,npc->kpc", weights, landmarks)
