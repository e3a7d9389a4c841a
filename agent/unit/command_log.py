# SPDX-License-Identifier: Apache-2.0
"""What the audit log keeps of commands: every one by the site's key, and counts of all others.

Whoever reaches the broker can send unsigned commands as fast as the unit listens, and a program that asks for what it
missed asks many times. One entry each would push the log's history out within hours, and wear the flash; so they share
an entry.
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
MAX_SHARED = 64  # sorts that are counted; the oldest is forgotten


class CommandLog:
    """Called with each outcome; ``append`` writes an entry and may not raise.

    ``taken`` is called after each signed command that may have changed something: the unit's files get a new number.
    """

    def __init__(
        self,
        append: Callable[[Kind, Mapping[str, Fact]], object],
        *,
        clock: Clock,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._append, self._clock, self._taken = append, clock, taken
        self._shared: dict[tuple[str | None, bool], tuple[int, int | None]] = {}  # count, when it was last told

    def __call__(self, outcome: Outcome) -> None:
        facts: dict[str, Fact] = {"verb": outcome.verb}
        if outcome.error is not None:
            facts["error"] = outcome.error
        if outcome.program is not None:
            facts["program"] = outcome.program
        if outcome.cmd_seq is not None and outcome.program is None:
            facts["cmd_seq"] = outcome.cmd_seq
        elif (count := self._count(outcome)) is None:
            return
        else:
            facts["count"] = count
        self._append("command_refused" if outcome.error else "command_done", facts)
        if outcome.cmd_seq is not None and outcome.verb not in READING:
            with suppress(StorageError):  # a full disk is told by what needs it; the next command tries again
                self._taken()

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
