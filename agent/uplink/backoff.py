# SPDX-License-Identifier: Apache-2.0
"""Exponential back-off with full jitter, so that a fleet does not come back all at once.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
"""

from __future__ import annotations

from collections.abc import Callable

MAX_DOUBLINGS = 16  # keeps 2**n small; every ceiling in use is reached long before


def uniform(random: Callable[[int], bytes]) -> float:
    """Draw a number in [0, 1) from a source of random bytes."""
    return int.from_bytes(random(4), "big") / 4294967296.0  # 2**32


def full_jitter(failures: int, *, shortest_s: float, longest_s: float, random: Callable[[int], bytes]) -> float:
    """Seconds to wait after ``failures`` (1 or more) failures in a row: within ``shortest_s`` to ``longest_s``."""
    ceiling = min(longest_s, shortest_s * float(1 << min(failures, MAX_DOUBLINGS)))
    return shortest_s + uniform(random) * (ceiling - shortest_s)
