# SPDX-License-Identifier: Apache-2.0
"""The upper tail of the impostor scores of one kind of decision: which threshold keeps which false match rate.

Down to ``measured_to`` the table was measured. Below, so few pairs of people are left that a share of them means
nothing, and the table goes on by the stated method: ``exponential`` continues the scores' excess over a high level by
an exponential distribution with their mean excess. It is the generalised Pareto distribution of peaks over a threshold
(Pickands, Annals of Statistics 1975; Davison and Smith, JRSS B 1990) with shape 0: scores that are bounded, as cosines
are, have a shape below 0 and so a shorter tail, and this errs on the safe side.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

# Rule of three: with no error in n independent trials, the rate is below 3/n at 95 % (Hanley and
# Lippman-Hand, JAMA 1983). A smaller FMR than that is not measured but extrapolated.
RULE_OF_THREE = 3.0

State = Literal["measured", "extrapolated", "beyond"]

Score = Annotated[float, Meta(gt=-1, le=2)]  # extrapolated thresholds may pass 1: then nobody matches


class TailPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A share ``fmr`` of the impostor scores reaches ``threshold``; ``low`` to ``high`` is its 95 % interval.

    As JSON an array of these four: a whole policy has to fit into a signed command.
    """

    fmr: Annotated[float, Meta(gt=0, lt=1)]
    threshold: Score
    low: Score
    high: Score


class Threshold(msgspec.Struct, frozen=True):
    """The smallest comparison score that counts, and the FMR (of a policy: the FPIR) that can be relied on at it.

    ``state``: the table was measured there, or extrapolated; or a smaller rate was wanted than the table has: ``value``
    is then its strictest one and ``rate`` is above what was wanted.
    """

    value: float
    rate: float
    state: State


class Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """See the module. ``people`` were compared with each other in ``pairs`` pairs of two different people."""

    people: Annotated[int, Meta(ge=2)]
    pairs: Annotated[int, Meta(ge=1)]
    method: Literal["exponential"]
    measured_to: Annotated[float, Meta(gt=0, lt=1)]
    points: Annotated[tuple[TailPoint, ...], Meta(min_length=2, max_length=64)]

    def __post_init__(self) -> None:
        for a, b in pairwise(self.points):
            if not (a.fmr > b.fmr and a.threshold < b.threshold):
                raise ValueError("a tail must run from a large fmr and low threshold to a small and high one")
        if any(not one.low <= one.threshold <= one.high for one in self.points):
            raise ValueError("a threshold of a tail lies outside its own interval")
        if self.measured_to * self.pairs < RULE_OF_THREE * (1 - 1e-6):
            raise ValueError("a tail claims to be measured to a smaller fmr than its pairs support (rule of three)")

    def threshold(self, fmr: float) -> Threshold:
        """Threshold for ``fmr``; between two points linear in log FMR, as such a tail nearly is.

        A rate above the first point's uses the first point; one below the last point's uses the last.
        """
        first, last = self.points[0], self.points[-1]
        if fmr >= first.fmr:
            return Threshold(first.threshold, first.fmr, "measured")
        if fmr < last.fmr:
            return Threshold(last.threshold, last.fmr, "beyond")
        a, b = next(pair for pair in pairwise(self.points) if fmr >= pair[1].fmr)
        share = math.log(a.fmr / fmr) / math.log(a.fmr / b.fmr)
        value = a.threshold + share * (b.threshold - a.threshold)
        return Threshold(value, fmr, "measured" if fmr >= self.measured_to else "extrapolated")
