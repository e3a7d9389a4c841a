# SPDX-License-Identifier: Apache-2.0
"""Figures of merit from comparison scores. Pure functions of arrays.

Terms as in ISO/IEC 19795-1: FMR and FNMR of 1:1 comparisons, FPIR and FNIR of open-set 1:N searches. A score counts as
a match when it is at or above the threshold. A failure to detect or to enrol is a score of minus infinity: it matches
at no threshold, so it counts against mated comparisons and for non-mated ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
FOLDS = 10  # the protocol of Labeled Faces in the Wild (Huang et al. 2007)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Mean and standard deviation over folds, and the mean of the thresholds that the other folds chose."""

    mean: float
    deviation: float
    threshold: float


def threshold_at(non_mated: Scores, rate: float) -> float:
    """Return the lowest threshold at which at most ``rate`` of the non-mated scores match.

    It lies just above a score, so it is the next larger float64; minus infinity when every score may match.
    """
    allowed = math.floor(rate * len(non_mated) + 1e-9)
    if allowed >= len(non_mated):
        return -math.inf
    worst_refused = np.partition(np.asarray(non_mated, np.float64), len(non_mated) - 1 - allowed)[-1 - allowed]
    return float(np.nextafter(worst_refused, math.inf))


def match_rate(scores: Scores, threshold: float) -> float:
    """Return the share of scores that match: the FMR of non-mated scores, 1 - FNMR of mated ones."""
    return float(np.mean(matches(scores, threshold))) if len(scores) else 0.0


def matches(scores: Scores, threshold: float) -> NDArray[np.bool_]:
    """Return which scores match; a failure (minus infinity) never does."""
    return (np.asarray(scores, np.float64) >= threshold) & np.isfinite(scores)


def tar_at_far(mated: Scores, non_mated: Scores, far: float) -> float:
    """Return the share of mated scores that match where at most ``far`` of the non-mated ones do."""
    return match_rate(mated, threshold_at(non_mated, far))


def equal_error_rate(mated: Scores, non_mated: Scores) -> float:
    """Return the error where FMR and FNMR are nearest to each other: the mean of both there."""
    thresholds = np.unique(np.concatenate([mated, non_mated, [math.inf]]).astype(np.float64))
    mated, non_mated = np.sort(mated), np.sort(non_mated)
    fnmr = np.searchsorted(mated, thresholds, side="left") / len(mated)
    fmr = 1 - np.searchsorted(non_mated, thresholds, side="left") / len(non_mated)
    if thresholds[0] == -math.inf:  # failures match nowhere, not even at the lowest threshold
        fnmr[0] = np.mean(mated == -math.inf)
        fmr[0] = np.mean(non_mated != -math.inf)
    best = int(np.argmin(np.abs(fmr - fnmr)))
    return float((fmr[best] + fnmr[best]) / 2)


def fold_accuracy(scores: Scores, same: NDArray[np.bool_], seed: int = 0) -> Accuracy:
    """Return the accuracy over ten folds of a seeded shuffle, the threshold chosen on the other nine each time."""
    order = np.random.default_rng(seed).permutation(len(scores))
    folds = np.array_split(order, FOLDS)
    results, chosen = [], []
    for index, fold in enumerate(folds):
        rest = np.concatenate([other for i, other in enumerate(folds) if i != index])
        threshold = best_threshold(scores[rest], same[rest])
        chosen.append(threshold)
        if len(fold):
            results.append(float(np.mean(matches(scores[fold], threshold) == same[fold])))
    return Accuracy(float(np.mean(results)), float(np.std(results)), float(np.mean(chosen)))


def best_threshold(scores: Scores, same: NDArray[np.bool_]) -> float:
    """Return the middle of the widest-scoring gap: the threshold with most correct decisions.

    Of several equally good ones the median is taken, which is steadier than the first.
    """
    finite = np.isfinite(scores)
    order = np.argsort(scores[finite])
    ordered, mated = np.asarray(scores, np.float64)[finite][order], same[finite][order]
    # deciding "match" for everything from position i on: correct are the non-mated before it and the mated after it
    correct = np.concatenate([[0], np.cumsum(~mated)]) + np.concatenate([np.cumsum(mated[::-1])[::-1], [0]])
    edges = np.concatenate([[True], np.diff(ordered) > 0, [True]])[: len(correct)]  # no cut between equal scores
    correct = np.where(edges, correct, -1)
    best = np.flatnonzero(correct == correct.max())
    cut = int(best[len(best) // 2])
    if not len(ordered):
        return 0.0
    low = ordered[cut - 1] if cut > 0 else ordered[0] - 1
    high = ordered[cut] if cut < len(ordered) else ordered[-1] + 1
    return float((low + high) / 2)


def quantiles(scores: Scores, shares: tuple[float, ...] = (0.5, 0.95)) -> list[float]:
    """Return quantiles, or an empty list of nothing."""
    return [float(v) for v in np.quantile(scores, shares)] if len(scores) else []
