# SPDX-License-Identifier: Apache-2.0
"""Which units fell silent: a broker that keeps back what a unit says of itself as well shows by that alone.

``health`` says how much was withheld, so whoever withholds has to withhold it, too. A unit that is switched off is as
silent; ``availability`` is not signed, and says nothing about which of the two it is.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.clock import Clock

SILENT_S = 600  # ten reports, where nothing else is set
REPORTS = 5  # that do not come, of a unit that reports less often
UNKNOWN_S = 3600  # between two reports at the most, while only one has come
LOOK_S = 60  # between two looks


class Silence:
    """Knows units from the list or their first verified report on, while this runs; each silence is told once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When, and how long after the report before: None where none ever came, and it is known from the list alone.
        self._heard: dict[str, tuple[int, float | None]] = {}
        self._silent: set[str] = set()
        self._looked_ns = self._connected_ns = clock.monotonic_ns()

    def heard(self, unit: str) -> list[str]:
        """A newer report of a unit came; what is to be told of that."""
        now_ns = self._clock.monotonic_ns()
        before = self._heard.get(unit)
        was_silent = unit in self._silent
        self._silent.discard(unit)
        known = before is not None and before[1] is not None and not was_silent
        self._heard[unit] = (now_ns, (now_ns - before[0]) / 1e9 if before and known else UNKNOWN_S)
        return [f"unit {unit} is heard again"] if was_silent else []

    def connected(self) -> None:
        """A connection was lost and is there again: what did not come meanwhile says nothing about a unit."""
        now_ns = self._connected_ns = self._clock.monotonic_ns()
        self._heard = {unit: (now_ns, interval_s) for unit, (_, interval_s) in self._heard.items()}

    def listening_s(self) -> float:
        """For how long the connection stands."""
        return (self._clock.monotonic_ns() - self._connected_ns) / 1e9

    def look(self, serving: Collection[str]) -> list[str]:
        """Sentences about units of ``serving`` that fell silent since the last look; others are forgotten.

        May be called as often as one likes.
        """
        told, now_ns = [], self._clock.monotonic_ns()
        if now_ns - self._looked_ns < LOOK_S * 1e9:
            return []
        self._looked_ns = now_ns
        for unit in serving:
            self._heard.setdefault(unit, (now_ns, None))
        for unit, (heard_ns, interval_s) in list(self._heard.items()):
            silent_s = (now_ns - heard_ns) / 1e9
            if unit not in serving:
                del self._heard[unit]
                self._silent.discard(unit)
            elif unit not in self._silent and silent_s > max(SILENT_S, REPORTS * (interval_s or UNKNOWN_S)):
                self._silent.add(unit)
                told.append(
                    f"unit {unit} says nothing of itself for {round(silent_s / 60)} minutes: it is off, or the broker"
                    " keeps back what it says"
                )
        return told
