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


FIRST_WAIT_S = 1.0  # upper bound of the first wait: a camera that reboots needs seconds anyway
MAX_WAIT_S = 30.0  # upper bound of every wait: a camera that is back is noticed within half a minute
STABLE_S = 10.0  # a source that worked this long starts again with short waits


class Backoff:
    """Full jitter: a random part of a bound that doubles (M. Brooker, AWS Architecture Blog, 2015)."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._bound_s = FIRST_WAIT_S

    def next_wait_s(self) -> float:
        """Seconds to wait before the next attempt, in [0, bound)."""
        wait_s = self._bound_s * int.from_bytes(self._random(4), "big") / 2**32
        self._bound_s = min(2 * self._bound_s, MAX_WAIT_S)
        return wait_s

    def worked(self, seconds: float) -> None:
        """Start over with short waits where the source worked for long enough."""
        if seconds >= STABLE_S:
            self._bound_s = FIRST_WAIT_S
