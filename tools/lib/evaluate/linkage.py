# SPDX-License-Identifier: Apache-2.0
"""Attacks on protected templates: whether two are of the same person, and which of another gallery is whose.

D_sys is the measure of Gomez-Barrero et al., "General Framework to Evaluate Unlinkability in Biometric Template
Protection Systems", IEEE TIFS 13(6), 2018, written from the paper: 0 is unlinkable, 1 fully linkable. On finite samples
it is biased upward, so it is compared with its own distribution when the labels are shuffled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.gallery.template import rotate
from agent.protocol.subject import SubjectId

Rows = NDArray[np.float32]  # (n, 128), unit length
Scores = NDArray[np.floating[Any]]

BINS = 50  # of score histograms: fewer hide a narrow peak, more stay mostly empty at a thousand scores
SHUFFLES = 400  # of the labels, for the distribution by chance
SHIFTS = (1, 2, 3)  # non-mated pairs: each template with those of the next three people
Z_999 = 3.09  # one-sided 99.9 % quantile of the normal distribution
LARGEST = 16  # coordinates compared by "largest places"

# What somebody who has two protected templates and no key can compare.
LINKAGE: dict[str, Callable[[Rows, Rows], Scores]] = {
    "cosine": lambda a, b: (a * b).sum(axis=1),
    "equal signs": lambda a, b: ((a > 0) == (b > 0)).mean(axis=1),
    "sorted magnitudes": lambda a, b: -np.abs(np.sort(np.abs(a), axis=1) - np.sort(np.abs(b), axis=1)).sum(axis=1),
    "largest places": lambda a, b: (
        np.argsort(-np.abs(a))[:, :LARGEST, None] == np.argsort(-np.abs(b))[:, None, :LARGEST]
    ).sum((1, 2)),
}


class Linked(NamedTuple):
    """D_sys as measured, and what chance stays below with 95 % for all ``tests`` linkage functions together."""

    d_sys: float
    chance: float

    @property
    def beyond_chance(self) -> bool:
        return self.d_sys > self.chance


def protect(references: Rows, rng: np.random.Generator) -> Rows:
    """Protect the references of one new site as the gallery does: a secret per gallery, a random id per subject."""
    secret = rng.bytes(32)
    return np.stack([rotate(row, secret, SubjectId(rng.bytes(16))) for row in references])


def protect_by_site(references: Rows, rng: np.random.Generator) -> Rows:
    """What the gallery does not do, to see that an attack works: one rotation for everybody of a site."""
    secret = rng.bytes(32)
    return np.stack([rotate(row, secret, SubjectId(bytes(16))) for row in references])


def d_sys(mated: Scores, non_mated: Scores, edges: NDArray[np.float64]) -> float:
    """Global unlinkability with equal priors (eq. 8 and 9 with omega = 1)."""
    p_mated = np.histogram(mated, edges)[0] / len(mated)
    p_non_mated = np.histogram(non_mated, edges)[0] / len(non_mated)
    more = p_mated > p_non_mated
    # (LR - 1) / (LR + 1) where the likelihood ratio LR is above 1, else 0.
    local = (p_mated[more] - p_non_mated[more]) / (p_mated[more] + p_non_mated[more])
    return float((local * p_mated[more]).sum())


def linked(mated: Scores, non_mated: Scores, rng: np.random.Generator, *, tests: int = len(LINKAGE)) -> Linked:
    """Compare D_sys of two samples with its distribution under shuffled labels (Bonferroni over ``tests``)."""
    both = np.concatenate([mated, non_mated]).astype(float)
    edges = np.linspace(both.min() - 1e-9, both.max() + 1e-9, BINS + 1)
    null = []
    for _ in range(SHUFFLES):
        shuffled = rng.permutation(both)
        null.append(d_sys(shuffled[: len(mated)], shuffled[len(mated) :], edges))
    return Linked(d_sys(mated, non_mated, edges), float(np.quantile(null, 1 - 0.05 / tests)))


def scores(here: Rows, there: Rows, score: Callable[[Rows, Rows], Scores]) -> tuple[Scores, Scores]:
    """Score mated and non-mated pairs of two galleries whose rows are of the same people in the same order."""
    return score(here, there), np.concatenate([score(here, np.roll(there, shift, axis=0)) for shift in SHIFTS])


def relinked_by_chance(people: int, known: int, galleries: int) -> float:
    """Share that guessing stays below with 99.9 %, over so many pairs of galleries (normal approximation)."""
    share, tries = 1 / (people - known), galleries * (people - known)
    return share + Z_999 * float(np.sqrt(share * (1 - share) / tries))


def relinked_by_profile(here: Rows, there: Rows, known: int) -> float:
    """Share found again at another site by their inner products with the first ``known`` people, known at both."""
    seen_here, seen_there = here[known:] @ here[:known].T, there[known:] @ there[:known].T
    apart = (seen_here**2).sum(1)[:, None] - 2 * seen_here @ seen_there.T + (seen_there**2).sum(1)[None]
    return float((apart.argmin(axis=1) == np.arange(len(here) - known)).mean())


def relinked_by_rotation(here: Rows, there: Rows, known: int) -> float:
    """The same by the rotation that best maps the known people of one site onto those of the other (Procrustes).

    It is found in the space that the known people span: what lies beside it says nothing.
    """
    (span_here, core_here), (span_there, core_there) = (np.linalg.qr(rows[:known].T) for rows in (here, there))
    left, _, right = np.linalg.svd(core_here @ core_there.T)
    mapped = here[known:] @ span_here @ left @ right
    likeness = mapped @ (there[known:] @ span_there).T
    return float((likeness.argmax(axis=1) == np.arange(len(here) - known)).mean())
