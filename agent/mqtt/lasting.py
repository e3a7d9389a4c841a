# SPDX-License-Identifier: Apache-2.0
"""Whether connections last: two clients of one name put each other out, and Mosquitto 2.0.11 tells neither of them."""

from __future__ import annotations

from agent.clock import Clock
from agent.errors import BrokerError
from agent.mqtt.refusals import CONNECTION_LOST, ConnectionLostError

SUSPICIOUS = 3  # short sessions in a row: the broker may know this client's name twice
TWICE = "if another unit or program uses this certificate, or this one runs twice, each puts the other out"


class Lasting:
    """``failures`` is the caller's, for its pauses; it starts anew when a session has lasted ``stable_s``.

    Where that is longer than the longest pause, two that share a name stay suspicious for as long as both try.
    """

    def __init__(self, clock: Clock, stable_s: float) -> None:
        self._clock, self._stable_ns = clock, round(stable_s * 1e9)
        self._began_ns: int | None = None
        self._short = 0
        self.failures = 0

    @property
    def is_suspicious(self) -> bool:
        """Whether one session after the other ended soon after it had begun."""
        return self._short >= SUSPICIOUS

    def began(self) -> None:
        """There is a session."""
        self._began_ns = self._clock.monotonic_ns()

    def look(self) -> bool:
        """Note how long the session has lasted; whether what was suspicious is so no more."""
        if self._began_ns is None or self._clock.monotonic_ns() - self._began_ns < self._stable_ns:
            return False
        recovered, self._short, self.failures = self.is_suspicious, 0, 0
        return recovered

    def ended(self, error: BrokerError) -> str:
        """A session ended, or did not come about; the sentence for a person."""
        self.look()
        self._short += self._began_ns is not None
        self._began_ns = None
        hides = isinstance(error, ConnectionLostError) and error.reason == CONNECTION_LOST
        return f"{error}; {TWICE}" if hides and self.is_suspicious else str(error)
