# SPDX-License-Identifier: Apache-2.0
"""Whose clock differs from this machine's: what such a unit says is never of this moment, and moves no automation."""

from __future__ import annotations

from datetime import datetime

import msgspec

from agent.clock import Clock
from agent.protocol.health import Health
from agent.protocol.names import parse_time

LASTS_S = 5.0  # between two reports that say it: what waited at a broker comes at once, and is old without any fault
SAME_S = 60  # differences so near to each other have one cause: the clock of this machine
ADVICE = (
    "or that is how long the broker takes: nothing that it says moves an automation until they agree; compare both"
    " clocks"
)
AGREE = "the clocks of the units and of this machine agree again"


class _Off(msgspec.Struct):
    since_ns: int
    difference_s: int
    told: bool = False


class Clocks:
    """Looks at units that vouch for their clocks; a report may be ``behind_s`` old, or ``ahead_s`` early."""

    def __init__(self, clock: Clock, *, behind_s: int, ahead_s: int) -> None:
        self._clock, self._behind_s, self._ahead_s = clock, behind_s, ahead_s
        self._off: dict[str, _Off] = {}  # of units on the site's list, which is bounded

    def heard(self, unit: str, report: Health) -> list[str]:
        """A newer report of a unit came; what is to be told of that: one sentence for each cause."""
        difference_s = _difference_s(report, self._clock.now())
        if -self._behind_s <= difference_s <= self._ahead_s or report.clock != "synced":
            was = self._off.pop(unit, None)
            return [AGREE] if was and was.told and not any(off.told for off in self._off.values()) else []
        now_ns = self._clock.monotonic_ns()
        off = self._off.setdefault(unit, _Off(now_ns, difference_s))
        if abs(off.difference_s - difference_s) > SAME_S:
            off = self._off[unit] = _Off(now_ns, difference_s)
        if off.told or now_ns - off.since_ns < LASTS_S * 1e9:
            return []
        off.told = True
        told = (other for other in self._off.values() if other.told and other is not off)
        if any(abs(other.difference_s - difference_s) <= SAME_S for other in told):
            return []
        which = "ahead of" if difference_s > 0 else "behind"
        text = f"the clock of unit {unit} is {abs(difference_s)} s {which} that of this machine, {ADVICE}"
        return [text]


def _difference_s(report: Health, now: datetime) -> int:
    return round((parse_time(report.time) - now).total_seconds())
