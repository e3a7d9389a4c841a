# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from agent.errors import RefusedError
from tools.lib.evaluate.calibrate import impostor_histogram, tail


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, 128)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_every_pair_of_different_people_is_counted_once() -> None:
    people = np.array([0, 0, 1, 2, 2, 2])
    counts = impostor_histogram(unit_rows(6, 1), people)
    assert counts.sum() == 15 - 1 - 3


def test_blocks_do_not_change_the_count() -> None:
    vectors, people = unit_rows(700, 2), np.arange(700)
    whole = impostor_histogram(vectors, people)
    scores = (vectors @ vectors.T)[np.triu_indices(700, 1)]
    assert whole.sum() == len(scores)
    assert np.count_nonzero(scores > 0.2) == pytest.approx(whole[12_000:].sum(), abs=2)


def test_the_share_at_a_threshold_is_what_the_tail_says() -> None:
    vectors, people = unit_rows(600, 3), np.arange(600)
    scores = (vectors @ vectors.T)[np.triu_indices(600, 1)]
    points = tail(impostor_histogram(vectors, people), 1e-4)
    assert points[0].fmr <= 0.1
    for point in points:
        assert np.mean(scores >= point.threshold) == pytest.approx(point.fmr, rel=0.05, abs=2e-5)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(RefusedError, match="too few"):
        tail(impostor_histogram(unit_rows(5, 4), np.arange(5)), 1e-4)
