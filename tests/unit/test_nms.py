# SPDX-License-Identifier: Apache-2.0
"""Suppression: the properties that define it, against a slow and obvious version."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.detect.nms import blend, nms

Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain(boxes: list[Box], scores: list[float], iou: float, limit: int) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if len(kept) < limit and all(overlap(boxes[index], boxes[k]) <= iou for k in kept):
            kept.append(index)
    return kept


SIDES = st.integers(1, 12)
BOXES = st.tuples(st.integers(0, 20), st.integers(0, 20), SIDES, SIDES).map(
    lambda t: (float(t[0]), float(t[1]), float(t[0] + t[2]), float(t[1] + t[3]))
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(BOXES, st.integers(0, 5)), min_size=1, max_size=30), st.integers(1, 31))
def test_the_same_boxes_are_kept_as_by_the_definition(found: list[tuple[Box, int]], limit: int) -> None:
    boxes, scores = [box for box, _ in found], [score / 5 for _, score in found]
    iou = 0.41  # no ratio of small whole numbers, so that rounding cannot decide
    kept = nms(np.array(boxes, np.float32), np.array(scores, np.float32), iou, limit)
    assert kept == plain(boxes, scores, iou, limit)


def test_the_better_of_two_answers_to_one_face_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 0, 40, 10]], np.float32)
    assert nms(boxes, np.array([0.7, 0.9, 0.8], np.float32), 0.4, 10) == [1, 2]
    assert nms(boxes, np.array([0.7, 0.9, 0.8], np.float32), 0.4, 1) == [1]


def test_answers_that_agree_are_averaged_and_others_are_left_alone() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]], np.float32)
    landmarks = np.stack([np.full((5, 2), value, np.float32) for value in (4, 6, 35)])
    scores = np.array([1.0, 0.5, 0.8], np.float32)
    blended, marks = blend(boxes, landmarks, scores, [0, 2])
    np.testing.assert_allclose(blended, [[0.2, 0, 10.2, 10], [30, 0, 40, 10]], rtol=1e-6)
    np.testing.assert_allclose(marks[:, 0, 0], [4.4, 35], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(BOXES, st.integers(1, 5)), min_size=1, max_size=12))
def test_a_blend_lies_within_what_was_blended(found: list[tuple[Box, int]]) -> None:
    boxes = np.array([box for box, _ in found], np.float32)
    scores = np.array([score / 5 for _, score in found], np.float32)
    landmarks = np.repeat(boxes[:, None, :2], 5, 1)
    kept = nms(boxes, scores, 0.41, 12)
    blended, marks = blend(boxes, landmarks, scores, kept)
    assert blended.shape == (len(kept), 4)
    assert (blended >= boxes.min(0) - 1e-3).all()
    assert (blended <= boxes.max(0) + 1e-3).all()
    assert np.isfinite(marks).all()
