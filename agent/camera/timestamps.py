# SPDX-License-Identifier: Apache-2.0
"""Sensor times that can be trusted for order and age."""

from __future__ import annotations

MAX_SENSOR_AGE_NS = 10_000_000_000  # buffers hold less than a second; further off, the driver uses another clock


class Timestamps:
    """Turns what a driver says into strictly rising times of the monotonic clock."""

    def __init__(self) -> None:
        self._last: int | None = None

    def live(self, claimed_ns: int | None, now_ns: int) -> int:
        """Time of a live frame in ns: the driver's claim, or ``now_ns`` where the claim is from another clock."""
        if claimed_ns is None or not -MAX_SENSOR_AGE_NS <= now_ns - claimed_ns <= MAX_SENSOR_AGE_NS:
            claimed_ns = now_ns
        return self.rising(claimed_ns)

    def rising(self, time_ns: int) -> int:
        """``time_ns``, or one more than the time before where that is not later."""
        if self._last is not None and time_ns <= self._last:
            time_ns = self._last + 1
        self._last = time_ns
        return time_ns
