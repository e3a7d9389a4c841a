# SPDX-License-Identifier: Apache-2.0
"""Alternating measurements and their statistics.

The basis is processor time of the whole process: other programs take wall time away, not processor time. What they
do to caches and clock rates hits every case alike, because the cases take turns; ratios are made within a turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WARM_UP_CALLS = 2  # of each case before anything counts: allocation, caches, lazy set-up


@dataclass(frozen=True, slots=True)
class Spread:
    """Median with the 10th and 90th percentile of ``count`` values."""

    median: float
    p10: float
    p90: float
    count: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds per call, one value a round: processor time and wall time."""

    cpu_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]

    @property
    def cpu(self) -> Spread:
        return spread(self.cpu_ms)

    @property
    def wall(self) -> Spread:
        return spread(self.wall_ms)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the values lie, interpolated; ValueError when empty."""
    if not values:
        raise ValueError("no values were measured")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> Spread:
    """Summarise ``values``; ValueError when empty."""
    return Spread(percentile(values, 0.5), percentile(values, 0.1), percentile(values, 0.9), len(values))


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """``over / under`` within each round, so that what slowed a whole round cancels out."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def alternate(cases: Mapping[str, Callable[[], object]], *, rounds: int, round_s: float) -> dict[str, Timing]:
    """Time each case in turn, ``rounds`` times; the first of a round is another one each time.

    A case is called about as often as fits into ``round_s`` seconds of processor time, at least once.
    """
    calls = {name: _calls(case, round_s) for name, case in cases.items()}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            case, count = cases[name], calls[name]
            began_cpu, began = time.process_time_ns(), time.perf_counter_ns()
            for _ in range(count):
                case()
            wall[name].append((time.perf_counter_ns() - began) / count / 1e6)
            cpu[name].append((time.process_time_ns() - began_cpu) / count / 1e6)
    return {name: Timing(tuple(cpu[name]), tuple(wall[name])) for name in names}


def _calls(case: Callable[[], object], round_s: float) -> int:
    taken = []
    for _ in range(WARM_UP_CALLS + 1):
        began = time.process_time_ns()
        case()
        taken.append((time.process_time_ns() - began) / 1e9)
    return max(1, round(round_s / max(statistics.median(taken), 1e-6)))
