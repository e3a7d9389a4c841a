# SPDX-License-Identifier: Apache-2.0
"""How long a subscriber was away, and whether the session that waited for it at the broker is still of use.

Live events expire within fifteen seconds, where nothing else is set. Of a session that waited longer, Mosquitto 2.0.11
(Debian 12) keeps what expired in the queue: it counts against its bounds, so that a subscriber that is back gets one
message at a time, and what comes meanwhile is dropped or comes out of order. Whoever can ask the units for what it
missed begins a new session then. Of a unit that was never heard nobody can, for no number says what is missing; nor of
one whose key was replaced, for what the old one signed.
"""

from __future__ import annotations

from agent.clock import Clock

STALE_S = 60  # live events expired; what did not, units say again


class Absence:
    """``since_s``: when the run before wrote last, in seconds since 1970; None where there was none."""

    def __init__(self, clock: Clock, since_s: float | None) -> None:
        self._clock = clock
        self._at_start_s = 0.0 if since_s is None else clock.now().timestamp() - since_s
        self._left_ns: int | None = None

    def begins(self) -> None:
        """The connection is lost; may be said again."""
        if self._left_ns is None:
            self._left_ns = self._clock.monotonic_ns()

    def ends(self) -> None:
        self._left_ns, self._at_start_s = None, 0.0

    @property
    def is_long(self) -> bool:
        """Whether what waits has expired."""
        lost_s = 0.0 if self._left_ns is None else (self._clock.monotonic_ns() - self._left_ns) / 1e9
        return max(self._at_start_s, lost_s) > STALE_S
