# SPDX-License-Identifier: Apache-2.0
"""Exponential back-off with full jitter, so that a fleet does not come back all at once.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MAX_DOUBLINGS = 16  # keeps 2**n small; every ceiling in use is reached long before


def uniform(random: Callable[[int], bytes]) -> float:
    """Draw a number in [0, 1) from a source of random bytes."""
    return int.from_bytes(random(4), "big") / 4294967296.0  # 2**32


class Bounds(NamedTuple):
    """Seconds: the least wait, what the wait after one failure stays below, and what every wait stays below."""

    least_s: float
    first_s: float
    most_s: float


def full_jitter(failures: int, bounds: Bounds, random: Callable[[int], bytes]) -> float:
    """Seconds to wait after ``failures`` (1 or more) failures in a row: any within bounds that double each time."""
    ceiling = min(bounds.most_s, bounds.first_s * float(1 << min(failures - 1, MAX_DOUBLINGS)))
    return bounds.least_s + uniform(random) * (ceiling - bounds.least_s)
