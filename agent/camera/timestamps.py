# SPDX-License-Identifier: Apache-2.0
"""Sensor times that can be trusted for order and age."""

from __future__ import annotations

from typing import Final

MAX_SENSOR_AGE_NS: Final = 10_000_000_000  # buffers hold less than a second; further off, the driver uses another clock
MAX_AHEAD_NS: Final = (
    100_000_000  # some drivers stamp the end of the exposure to come; further ahead is no sensor's time
)
MAX_DRIFT_PPM: Final = 200  # two cheap quartzes are together less than this apart
DISCONTINUITY_NS: Final = 2_000_000_000  # stream times that jump by more begin anew


class Timestamps:
    """Turns what a driver says into strictly rising times of the monotonic clock."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._last_claim: int | None = None

    def live(self, claimed_ns: int | None, now_ns: int) -> int:
        """Time of a live frame in ns: the driver's claim, or ``now_ns`` where that cannot be the sensor's time.

        Not believed are claims of another clock, from the future, and those that are not later than the claim before:
        a stamp that is stuck or out of order must not let time stand still.
        """
        claim, believed = claimed_ns, now_ns
        if claim is not None:
            later = self._last_claim is None or claim > self._last_claim
            self._last_claim = claim
            if later and -MAX_AHEAD_NS <= now_ns - claim <= MAX_SENSOR_AGE_NS:
                believed = min(claim, now_ns)
        return self.rising(believed)

    def rising(self, time_ns: int) -> int:
        """``time_ns``, or one more than the time before where that is not later."""
        if self._last is not None and time_ns <= self._last:
            time_ns = self._last + 1
        self._last = time_ns
        return time_ns


class StreamClock:
    """When a picture of a stream was taken, by the stream's own rate of time against the monotonic clock.

    The picture that came soonest after its stream time tells how the two clocks lie; whatever comes later than that
    waited somewhere: in the camera, on the way, or in this machine's buffers.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None  # monotonic less stream time, of the quickest picture
        self._last: tuple[int, int] = (0, 0)  # stream time and arrival of the picture before

    def taken(self, stream_ns: int, now_ns: int) -> int:
        """Monotonic ns at which a picture of stream time ``stream_ns`` was taken, if it arrived at ``now_ns``."""
        offset = now_ns - stream_ns
        if self._offset_ns is None or self._jumped(stream_ns, now_ns):
            self._offset_ns = offset
        else:
            drift = max(now_ns - self._last[1], 0) * MAX_DRIFT_PPM // 1_000_000
            self._offset_ns = min(offset, self._offset_ns + drift)
        self._last = (stream_ns, now_ns)
        return stream_ns + self._offset_ns

    def _jumped(self, stream_ns: int, now_ns: int) -> bool:
        """Whether stream time went back, or further ahead than what may have waited."""
        last_ns, arrived_ns = self._last
        late_ns = arrived_ns - last_ns - (self._offset_ns or 0)
        step_ns = stream_ns - last_ns
        return step_ns < -DISCONTINUITY_NS or step_ns > now_ns - arrived_ns + late_ns + DISCONTINUITY_NS
