# SPDX-License-Identifier: Apache-2.0
"""Decisions made from pictures: means of several, compared as a unit compares probes with references.

Pure functions of arrays and a random generator. ``People`` holds unit vectors by person. An impostor decision takes
means over pictures of two different people who each have so many; a mated one takes means over different pictures of
one person. Pictures are drawn anew several times; whatever is said about uncertainty resamples people, never pairs,
because the pairs of one person depend on each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.errors import RefusedError
from agent.match.tail import RULE_OF_THREE, Tail, TailPoint
from tools.lib.evaluate.arguments import to_write

Vectors = NDArray[np.float32]

DRAWS = 8  # of pictures per person: more bring nothing, most have few pictures
KEPT = 2e-2  # share of the impostor scores that the tail is read from: beyond the largest FMR of the table
LARGEST_FMR = 1e-2  # no gallery and target needs a larger one
SMALLEST_FMR = 2e-8  # a gallery of 2 500 at the strictest target and two looks
POINTS_PER_DECADE = 3  # where measured; between points the threshold is close to linear in log FMR
# The exponential is fitted to what lies above the threshold with this FMR. Of single pictures of 904 people the mean
# excess falls down to here (0.042 at 1e-2, 0.036 at 3e-3) and no further (0.034 at 1e-3, 0.037 at 3e-4): the tail has
# become exponential.
FIT_FROM = 3e-3
RESAMPLED = 300  # bootstrap samples: the ends of a 95 % interval are then the 7th from either side
MATED_DRAWS = 60  # divisions of a person's pictures into captures and probes: with 20, rates still move by a third


@dataclass(frozen=True, slots=True)
class People:
    """Unit vectors (n, 128) and, for each person, the rows that are theirs."""

    vectors: Vectors
    rows: Sequence[NDArray[np.int64]]

    def having(self, count: int) -> list[int]:
        """Numbers of the people with at least so many pictures."""
        return [number for number, rows in enumerate(self.rows) if len(rows) >= count]

    def means(self, people: Sequence[int], count: int, rng: np.random.Generator) -> Vectors:
        """Unit mean of ``count`` pictures of each, drawn anew, or of all where a person has fewer."""
        drawn = (rng.permutation(self.rows[one])[:count] for one in people)
        return unit(np.array([self.vectors[rows].sum(0) for rows in drawn]))


def by_name(names: Sequence[str], vectors: Vectors) -> People:
    """Group the rows that are not NaN by name."""
    found = ~np.isnan(vectors).any(1)
    _, number = np.unique(np.asarray(names)[found], return_inverse=True)
    order = np.argsort(number, kind="stable")
    return People(vectors[found], np.split(order, np.flatnonzero(np.diff(number[order])) + 1))


def add_people_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``calibrate``, ``identification`` and ``extrapolation`` are told about the pictures of people."""
    parser.add_argument(
        "--refuse", type=float, default=0.1, metavar="SHARE", help="least agreeing; default: %(default)s"
    )
    parser.add_argument("--vectors", type=to_write, metavar="FILE.npz", help="keep the vectors of --images here")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="NAME", help="folders of people who have another one as well"
    )


def named(names: Sequence[str], vectors: Vectors, leave_out: Sequence[str]) -> People:
    """Group by name, but for those to be left out; RefusedError when one of them is not there."""
    if absent := set(leave_out) - set(names):
        raise RefusedError(f"there is nobody called {min(absent)} to leave out")
    kept = vectors.copy()
    kept[np.isin(names, list(leave_out))] = np.nan
    return by_name(names, kept)


def unit(total: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return np.asarray(total / np.maximum(length, 1e-6), np.float32)


@dataclass(frozen=True, slots=True)
class Impostors:
    """The highest impostor scores, descending, and who was compared: ``a`` and ``b`` number people.

    ``total`` scores there were in all, of ``draws`` for each pair in ``pairs`` (unordered) of ``people`` different;
    ``probed`` and ``enrolled`` are the numbers of those on the two sides.
    """

    scores: NDArray[np.float64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    probed: Sequence[int]
    enrolled: Sequence[int]

    @property
    def people(self) -> int:
        """Independent people behind the scores: those of the smaller side."""
        return min(len(self.probed), len(self.enrolled))

    @property
    def pairs(self) -> int:
        """Unordered pairs of two different people."""
        both = len(set(self.probed) & set(self.enrolled))
        return len(self.probed) * len(self.enrolled) - both - both * (both - 1) // 2


def impostors(people: People, probes: int, captures: int, seed: int) -> Impostors:
    """Compare everybody who has enough pictures with everybody else who has."""
    rng = np.random.default_rng([seed, probes, captures])
    probed, enrolled = people.having(probes), people.having(captures)
    strangers = np.asarray(probed)[:, None] != np.asarray(enrolled)[None]
    scores, places = [], []
    for _ in range(DRAWS):
        found = people.means(probed, probes, rng) @ people.means(enrolled, captures, rng).T
        kept = int(strangers.sum() * KEPT) + 1
        flat = np.where(strangers, found, -np.inf).ravel()
        top = np.argpartition(flat, len(flat) - kept)[-kept:]
        scores.append(flat[top].astype(np.float64))
        places.append(top)
    score, place = np.concatenate(scores), np.concatenate(places)
    order = np.argsort(-score, kind="stable")
    a, b = np.divmod(place[order], len(enrolled))
    return Impostors(score[order], np.asarray(probed)[a], np.asarray(enrolled)[b], probed, enrolled)


def tail(found: Impostors, seed: int, resampled: int = RESAMPLED) -> Tail:
    """The table of thresholds, measured as far as the pairs support it and then extrapolated, with intervals.

    The intervals are of so many bootstrap samples as ``resampled`` says: one will do where nobody reads them.
    """
    measured_to = max(RULE_OF_THREE / found.pairs, SMALLEST_FMR)
    if measured_to >= LARGEST_FMR / 2:
        raise ValueError(f"{found.pairs} pairs of people are too few for a tail: some hundred are needed")
    steps = int(np.floor(np.log10(LARGEST_FMR / measured_to) * POINTS_PER_DECADE))
    rates = [LARGEST_FMR * 10 ** (-step / POINTS_PER_DECADE) for step in range(steps + 1)]
    decades = int(np.ceil(np.log10(measured_to / SMALLEST_FMR)))
    rates = [*rates, *np.geomspace(measured_to, SMALLEST_FMR, decades + 1)]
    rng = np.random.default_rng(seed)
    everyone = sorted({*found.probed, *found.enrolled})
    number = np.zeros(max(everyone) + 1, np.int64)
    number[everyone] = np.arange(len(everyone))
    again = []
    for _ in range(resampled):
        weight = np.bincount(rng.integers(0, len(everyone), len(everyone)), minlength=len(everyone)).astype(float)
        again.append(_thresholds(found, rates, measured_to, weight[number[found.a]], weight[number[found.b]],
                                 _pair_weight(weight, number, found)))  # fmt: skip
    ones = np.ones(len(found.scores))
    best = _thresholds(found, rates, measured_to, ones, ones, _pair_weight(np.ones(len(everyone)), number, found))
    low, high = np.quantile(np.array(again), (0.025, 0.975), axis=0)
    points: list[TailPoint] = []
    for fmr, value, least, most in zip(rates, best, low, high, strict=True):
        threshold = round(float(value), 4)
        if points and (fmr >= points[-1].fmr or threshold <= points[-1].threshold):
            continue
        points.append(
            TailPoint(
                fmr=float(f"{fmr:.4g}"),
                threshold=threshold,
                low=min(round(float(least), 4), threshold),
                high=max(round(float(most), 4), threshold),
            )
        )
    return Tail(
        people=found.people,
        pairs=found.pairs,
        method="exponential",
        measured_to=float(f"{measured_to * (1 + 1e-3):.4g}"),
        points=tuple(points),
    )


def _pair_weight(weight: NDArray[np.float64], number: NDArray[np.int64], found: Impostors) -> float:
    """Weight of all scores together, those that were not kept included."""
    probed, enrolled = weight[number[list(found.probed)]], weight[number[list(found.enrolled)]]
    both = weight[number[sorted(set(found.probed) & set(found.enrolled))]]
    return float(DRAWS * (probed.sum() * enrolled.sum() - (both**2).sum()))


def _thresholds(
    found: Impostors,
    rates: Sequence[float],
    measured_to: float,
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    total: float,
) -> NDArray[np.float64]:
    """Threshold at each rate: the score that so many reach, and below ``measured_to`` the exponential's."""
    weight = a * b
    reached = np.cumsum(weight) / total

    def measured(fmr: float) -> int:
        return min(int(np.searchsorted(reached, fmr)), len(found.scores) - 1)

    level = max(FIT_FROM, 2 * measured_to)
    first = measured(level)
    above, excess = weight[: first + 1], found.scores[: first + 1] - found.scores[first]
    mean = float((above * excess).sum() / max(above.sum(), 1e-12))
    thresholds = np.array([
        found.scores[measured(fmr)] if fmr > measured_to else found.scores[first] + mean * np.log(level / fmr)
        for fmr in rates
    ])  # fmt: skip
    return np.maximum.accumulate(thresholds)


@dataclass(frozen=True, slots=True)
class Mated:
    """Searches for people who are enrolled: ``own`` (p, d) scores against their reference; ``others`` (p, d, g).

    p people in d draws; g references of other people, in an order that was drawn for each search.
    """

    own: NDArray[np.float32]
    others: NDArray[np.float32]

    def missed(self, gallery: int, threshold: float, margin: float) -> NDArray[np.float64]:
        """Share of each person's searches that fail in a gallery of so many: below the threshold or without a lead."""
        if gallery - 1 > self.others.shape[2]:
            raise ValueError(f"there are references of {self.others.shape[2] + 1} people, not of {gallery}")
        best = self.others[:, :, : gallery - 1].max(2, initial=-1.0)
        failed: NDArray[np.float64] = ((self.own < threshold) | (self.own - best < margin)).mean(1)
        return failed


def mated(people: People, fillers: Vectors, probes: int, captures: int, most: int, seed: int) -> Mated | None:
    """Search for everybody who has enough pictures among references of others, ``fillers`` (n, 128) included.

    References of others are means of up to ``captures`` pictures. None when nobody has enough pictures.
    """
    searched = people.having(probes + captures)
    if not searched:
        return None
    rng = np.random.default_rng([seed, probes, captures])
    everyone = list(range(len(people.rows)))
    own = np.zeros((len(searched), MATED_DRAWS), np.float32)
    count = min(most, len(everyone) + len(fillers)) - 1
    others = np.zeros((len(searched), MATED_DRAWS, count), np.float32)
    for draw in range(MATED_DRAWS):
        references = np.concatenate([people.means(everyone, captures, rng), fillers])
        numbers = np.arange(len(references))
        rows, chosen = [], []
        for one in searched:
            rows.append(rng.permutation(people.rows[one]))
            chosen.append(rng.permutation(np.concatenate([numbers[:one], numbers[one + 1 :]]))[:count])
        probed = unit(np.array([people.vectors[own_rows[captures : captures + probes]].sum(0) for own_rows in rows]))
        enrolled = unit(np.array([people.vectors[own_rows[:captures]].sum(0) for own_rows in rows]))
        for index, (probe, reference) in enumerate(zip(probed, enrolled, strict=True)):
            own[index, draw] = probe @ reference
            others[index, draw] = references[chosen[index]] @ probe
    return Mated(own, others)


def interval(shares: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """Mean over people of ``shares`` and its 95 % interval by bootstrap.

    The upper end is never below the rule of three's for so many people: of few who are never missed the bootstrap would
    conclude that nobody is.
    """
    rng = np.random.default_rng(seed)
    means = shares[rng.integers(0, len(shares), (RESAMPLED * 4, len(shares)))].mean(1)
    low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    mean = float(shares.mean())
    return mean, min(low, mean), max(high, mean, min(RULE_OF_THREE / len(shares), 1.0))
