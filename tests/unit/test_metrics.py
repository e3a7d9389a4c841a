# SPDX-License-Identifier: Apache-2.0
"""Figures of merit on distributions whose answer is known, and the properties that hold for all."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.lib.evaluate import metrics

SCORES = st.lists(st.one_of(st.floats(-1, 1), st.just(-math.inf)), min_size=1, max_size=60).map(np.array)


def test_separated_scores_are_perfect() -> None:
    mated, non_mated = np.array([0.7, 0.8, 0.9]), np.array([0.1, 0.2, 0.3])
    assert metrics.equal_error_rate(mated, non_mated) == 0
    assert metrics.tar_at_far(mated, non_mated, 0.001) == 1


def test_swapped_scores_are_wholly_wrong() -> None:
    assert metrics.equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1


def test_normal_scores_give_the_textbook_figures() -> None:
    rng = np.random.default_rng(0)
    mated, non_mated = rng.normal(2, 1, 200_000), rng.normal(0, 1, 200_000)
    assert metrics.equal_error_rate(mated, non_mated) == pytest.approx(NormalDist().cdf(-1), abs=2e-3)
    for far in (1e-1, 1e-2, 1e-3):
        threshold = NormalDist().inv_cdf(1 - far)
        assert metrics.threshold_at(non_mated, far) == pytest.approx(threshold, abs=0.05)
        assert metrics.tar_at_far(mated, non_mated, far) == pytest.approx(1 - NormalDist(2).cdf(threshold), abs=0.02)
    scores, same = np.concatenate([mated[:5000], non_mated[:5000]]), np.arange(10_000) < 5000
    accuracy = metrics.fold_accuracy(scores, same)
    assert accuracy.mean == pytest.approx(NormalDist().cdf(1), abs=0.01)
    assert accuracy.threshold == pytest.approx(1, abs=0.2)


def test_rate_counts_scores_exactly() -> None:
    non_mated = np.arange(1000) / 1000
    threshold = metrics.threshold_at(non_mated, 0.01)
    assert metrics.match_rate(non_mated, threshold) == 0.01
    assert metrics.match_rate(np.array([0.989, 0.990, 0.991]), threshold) == pytest.approx(2 / 3)


def test_equal_scores_are_decided_together() -> None:
    non_mated = np.array([0.5] * 10)
    assert metrics.match_rate(non_mated, metrics.threshold_at(non_mated, 0.3)) == 0


def test_failures_match_at_no_threshold() -> None:
    failed = np.array([-math.inf, -math.inf, 0.9])
    assert metrics.match_rate(failed, -math.inf) == pytest.approx(1 / 3)
    assert metrics.tar_at_far(failed, np.array([0.1]), 1.0) == pytest.approx(1 / 3)
    assert metrics.equal_error_rate(np.full(4, -math.inf), np.full(4, -math.inf)) == 0.5


def test_threshold_of_nine_folds_judges_the_tenth() -> None:
    scores, same = np.linspace(0, 1, 100), np.arange(100) >= 50
    accuracy = metrics.fold_accuracy(scores, same)
    assert accuracy.mean >= 0.98
    assert 0.45 < accuracy.threshold < 0.55


def test_random_scores_are_right_half_of_the_time() -> None:
    rng = np.random.default_rng(1)
    accuracy = metrics.fold_accuracy(rng.random(4000), rng.random(4000) < 0.5)
    assert accuracy.mean == pytest.approx(0.5, abs=0.04)


@settings(max_examples=80, deadline=None)
@given(SCORES, SCORES)
def test_equal_error_rate_is_a_rate(mated: np.ndarray, non_mated: np.ndarray) -> None:
    assert 0 <= metrics.equal_error_rate(mated, non_mated) <= 1


@settings(max_examples=80, deadline=None)
@given(SCORES, SCORES, st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_more_false_accepts_never_cost_true_ones(mated: np.ndarray, non_mated: np.ndarray, fars: list[float]) -> None:
    rates = [metrics.tar_at_far(mated, non_mated, far) for far in sorted(fars)]
    assert rates == sorted(rates)
    for far in fars:
        assert metrics.match_rate(non_mated, metrics.threshold_at(non_mated, far)) <= far + 1e-9


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.booleans()), min_size=1, max_size=40))
def test_best_threshold_is_at_least_as_good_as_any_other(pairs: list[tuple[float, bool]]) -> None:
    scores, same = np.array([s for s, _ in pairs]), np.array([m for _, m in pairs])
    reached = np.mean(metrics.matches(scores, metrics.best_threshold(scores, same)) == same)
    for threshold in [*scores, 2.0]:
        assert reached >= np.mean(metrics.matches(scores, threshold) == same) - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shuffling_the_input_by_the_same_seed_changes_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0.6, 0.1, 200), rng.normal(0.1, 0.1, 200)])
    same = np.arange(400) < 200
    assert metrics.fold_accuracy(scores, same, seed) == metrics.fold_accuracy(scores, same, seed)
    assert metrics.fold_accuracy(scores, same, seed).mean > 0.95
