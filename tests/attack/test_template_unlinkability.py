# SPDX-License-Identifier: Apache-2.0
"""Two sites' templates of the same people cannot be told to be of the same people without the keys.

The measure is D_sys of Gomez-Barrero et al., "General Framework to Evaluate Unlinkability in Biometric
Template Protection Systems", IEEE TIFS 2018: 0 is unlinkable, 1 is fully linkable. On finite samples it is
biased upward, so it is compared with its own distribution when the labels are shuffled. The second attack
aligns whole galleries by the inner products within them, which one rotation per site would leave intact.

Embeddings are random and correlated, with the spread of a real embedder's spectrum; captures differ by
noise at a mated score of about 0.6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agent.gallery.template import mean_reference, rotate
from agent.match.records import SubjectId

BINS = 50
SHUFFLES = 400


def population(rng: np.random.Generator, people: int) -> np.ndarray:
    """Unit rows with a decaying spectrum in a fixed random basis."""
    basis = np.linalg.qr(np.random.default_rng(42).normal(size=(128, 128)))[0]
    return unit((rng.normal(size=(people, 128)) * np.linspace(1.6, 0.3, 128)) @ basis)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def enrol(
    rng: np.random.Generator, people: np.ndarray, rotation: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    """One site's templates: the mean of four captures at a mated score of 0.6, turned by ``rotation``."""
    captures = [unit(people + rng.normal(size=people.shape) * 0.82 / np.sqrt(128)) for _ in range(4)]
    return np.stack([rotation(i, mean_reference([c[i] for c in captures])) for i in range(len(people))])


def per_subject(rng: np.random.Generator) -> Callable[[int, np.ndarray], np.ndarray]:
    """What the product does: a secret per gallery and a random id per subject."""
    secret = rng.bytes(32)
    return lambda _, reference: rotate(reference, secret, SubjectId(rng.bytes(16)))


def per_site(rng: np.random.Generator) -> Callable[[int, np.ndarray], np.ndarray]:
    """What it does not do: one rotation for all of a site."""
    secret = rng.bytes(32)
    return lambda _, reference: rotate(reference, secret, SubjectId(bytes(16)))


def d_sys(mated: np.ndarray, non_mated: np.ndarray, edges: np.ndarray) -> float:
    """Global unlinkability with equal priors."""
    p_mated = np.histogram(mated, edges)[0] / len(mated)
    p_non_mated = np.histogram(non_mated, edges)[0] / len(non_mated)
    more = p_mated > p_non_mated
    # (LR - 1) / (LR + 1) where the likelihood ratio LR is above 1, else 0.
    local = (p_mated[more] - p_non_mated[more]) / (p_mated[more] + p_non_mated[more])
    return float((local * p_mated[more]).sum())


LINKAGE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": lambda a, b: (a * b).sum(axis=1),
    "equal signs": lambda a, b: ((a > 0) == (b > 0)).mean(axis=1),
    "sorted magnitudes": lambda a, b: -np.abs(np.sort(np.abs(a), axis=1) - np.sort(np.abs(b), axis=1)).sum(axis=1),
    "largest places": lambda a, b: (np.argsort(-np.abs(a))[:, :16, None] == np.argsort(-np.abs(b))[:, None, :16]).sum(
        (1, 2)
    ),
}


def linked_beyond_chance(
    here: np.ndarray, there: np.ndarray, linkage: str, rng: np.random.Generator
) -> tuple[float, float]:
    """D_sys, and what it stays below by chance: in 95 of 100 cases for all linkage functions together."""
    score = LINKAGE[linkage]
    mated = score(here, there)
    non_mated = np.concatenate([score(here, np.roll(there, shift, axis=0)) for shift in (1, 2, 3)])
    both = np.concatenate([mated, non_mated]).astype(float)
    edges = np.linspace(both.min() - 1e-9, both.max() + 1e-9, BINS + 1)
    null = []
    for _ in range(SHUFFLES):
        shuffled = rng.permutation(both)
        null.append(d_sys(shuffled[: len(mated)], shuffled[len(mated) :], edges))
    return d_sys(mated, non_mated, edges), float(np.quantile(null, 1 - 0.05 / len(LINKAGE)))


@pytest.fixture(scope="module")
def two_sites() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2026)
    people = population(rng, 1200)
    return enrol(rng, people, per_subject(rng)), enrol(rng, people, per_subject(rng))


@pytest.mark.parametrize("linkage", LINKAGE)
def test_two_sites_templates_of_the_same_people_are_unlinkable(two_sites, linkage) -> None:
    measured, chance = linked_beyond_chance(*two_sites, linkage, np.random.default_rng(0))
    assert measured <= chance


def test_the_measure_sees_a_link_where_there_is_one() -> None:
    rng = np.random.default_rng(1)
    people = population(rng, 300)
    same = per_site(rng)
    measured, chance = linked_beyond_chance(enrol(rng, people, same), enrol(rng, people, same), "cosine", rng)
    assert measured > 0.9 > chance


def relinked(
    rotation: Callable[[np.random.Generator], Callable], seed: int, *, people: int = 200, known: int = 20
) -> float:
    """Share of a site's people that are found at another site, by somebody who knows ``known`` of them at both."""
    rng = np.random.default_rng(seed)
    crowd = population(rng, people)
    here, there = enrol(rng, crowd, rotation(rng)), enrol(rng, crowd, rotation(rng))
    seen_here, seen_there = here[known:] @ here[:known].T, there[known:] @ there[:known].T
    nearest = ((seen_here[:, None] - seen_there[None]) ** 2).sum(axis=2).argmin(axis=1)
    return float((nearest == np.arange(people - known)).mean())


def test_two_galleries_cannot_be_aligned_by_the_people_known_in_both() -> None:
    rates = [relinked(per_subject, seed) for seed in range(6)]
    assert np.mean(rates) <= 2 / 200


def test_one_rotation_per_site_would_have_been_aligned() -> None:
    assert relinked(per_site, 0) > 0.5
