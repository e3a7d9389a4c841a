# SPDX-License-Identifier: Apache-2.0
"""What the audit log keeps of commands: every one by the site's key that was taken, and counts of all others.

Whoever reaches the broker can send unsigned commands as fast as the unit listens, and signed ones that were recorded;
a program that asks for what it missed asks many times. One entry each would push the log's history out within hours,
and wear the flash; so they share an entry, the site's own refused ones once there are more than people send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from agent.audit.chain import Fact, Kind
from agent.clock import Clock
from agent.errors import StorageError
from agent.protocol.command import READING
from agent.uplink.commands import Outcome

SHARED_S = 600  # between entries about the same sort: the log then holds three years of an endless attack
REFUSED_AT_ONCE = 20  # entries about refused ones by the site's key, before they have to wait as long each
MAX_SHARED = 64  # sorts that are counted; the oldest is forgotten


class CommandLog:
    """Called with each outcome; ``append`` writes an entry and may not raise.

    ``taken`` is called after each command that was taken and may have changed something: the unit's files get a new
    number.
    """

    def __init__(
        self,
        append: Callable[[Kind, Mapping[str, Fact]], object],
        *,
        clock: Clock,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._append, self._clock, self._taken = append, clock, taken
        self._refused, self._room, self._room_ns = 0, float(REFUSED_AT_ONCE), clock.monotonic_ns()
        self._shared: dict[tuple[str | None, bool], tuple[int, int | None]] = {}  # count, when it was last told

    def __call__(self, outcome: Outcome) -> None:
        facts: dict[str, Fact] = {"verb": outcome.verb}
        if outcome.error is not None:
            facts["error"] = outcome.error
        if outcome.program is not None:
            facts["program"] = outcome.program
        if outcome.cmd_seq is not None and outcome.program is None:
            facts["cmd_seq"] = outcome.cmd_seq
            if not outcome.taken:
                if (count := self._count_refused()) is None:
                    return
                if count > 1:
                    facts["count"] = count
        elif (count := self._count(outcome)) is None:
            return
        else:
            facts["count"] = count
        self._append("command_refused" if outcome.error else "command_done", facts)
        if outcome.taken and outcome.verb not in READING:
            with suppress(StorageError):  # a full disk is told by what needs it; the next command tries again
                self._taken()

    def _count_refused(self) -> int | None:
        """Number of the site's commands that were refused since the last entry about one, this one included, or None.

        ``REFUSED_AT_ONCE`` have an entry each, and one more in each ``SHARED_S``.
        """
        now_ns = self._clock.monotonic_ns()
        self._room = min(self._room + (now_ns - self._room_ns) / 1e9 / SHARED_S, REFUSED_AT_ONCE)
        self._room_ns = now_ns
        self._refused += 1
        if self._room < 1:
            return None
        self._room -= 1
        count, self._refused = self._refused, 0
        return count

    def _count(self, outcome: Outcome) -> int | None:
        """Number of such commands since the last entry about them; None when it is too early for another."""
        sort = outcome.program, outcome.error is not None
        count, told_ns = self._shared.pop(sort, (0, None))
        now_ns = self._clock.monotonic_ns()
        if told_ns is not None and now_ns - told_ns < SHARED_S * 1_000_000_000:
            self._shared[sort] = count + 1, told_ns
            return None
        self._shared[sort] = 0, now_ns
        while len(self._shared) > MAX_SHARED:
            del self._shared[next(iter(self._shared))]
        return count + 1
