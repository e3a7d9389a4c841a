# SPDX-License-Identifier: Apache-2.0
"""Stage times in histograms of fixed size: a unit that runs for years holds the same few bytes."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager

import msgspec

BINS_PER_OCTAVE = 8  # a bin is 9 % wide: good enough for p50 and p95
OCTAVES = 24  # 1 microsecond to 16 seconds
BINS = BINS_PER_OCTAVE * OCTAVES


class Summary(msgspec.Struct, frozen=True):
    """Quantiles of one stage in whole microseconds, and how many times it ran."""

    count: int
    p50_us: int
    p95_us: int


class Histogram:
    """Counts of durations in logarithmic bins."""

    __slots__ = ("_bins", "count")

    def __init__(self) -> None:
        self._bins = [0] * BINS
        self.count = 0

    def add(self, nanoseconds: int) -> None:
        microseconds = max(nanoseconds / 1000, 1.0)
        self._bins[min(int(math.log2(microseconds) * BINS_PER_OCTAVE), BINS - 1)] += 1
        self.count += 1

    def quantile(self, q: float) -> int:
        """Upper edge in microseconds of the bin that holds the quantile; 0 when nothing was counted."""
        remaining = q * self.count
        for index, n in enumerate(self._bins):
            remaining -= n
            if n and remaining <= 0:
                return round(2 ** ((index + 1) / BINS_PER_OCTAVE))
        return 0

    def summary(self) -> Summary:
        return Summary(self.count, self.quantile(0.5), self.quantile(0.95))


class _Measured:
    """A block that is timed; as a generator it would cost an idle frame as much as its tracks."""

    __slots__ = ("_began", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._began = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self._histogram.add(time.perf_counter_ns() - self._began)


class StageTimes:
    """One histogram per named stage; the names are fixed at construction."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._stages = {name: Histogram() for name in names}

    def measure(self, name: str) -> AbstractContextManager[None]:
        """Time the block and count it under ``name``."""
        return _Measured(self._stages[name])

    def summaries(self) -> dict[str, Summary]:
        """Stages that ran at least once."""
        return {name: h.summary() for name, h in self._stages.items() if h.count}
