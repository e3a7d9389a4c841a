# SPDX-License-Identifier: Apache-2.0
"""What the audit log keeps of commands: every one that was signed, and a count of those that were not.

Whoever reaches the broker can send unsigned commands as fast as the unit listens. One entry each would push the
log's history out within hours, and wear the flash; so they share an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from agent.audit.chain import Fact, Kind
from agent.clock import Clock
from agent.errors import StorageError
from agent.protocol.command import READING
from agent.uplink.commands import Outcome

UNSIGNED_S = 600  # between entries about unsigned commands: the log then holds three years of an endless attack


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
        self._unsigned = 0
        self._told_ns: int | None = None

    def __call__(self, outcome: Outcome) -> None:
        facts: dict[str, Fact] = {"verb": outcome.verb}
        if outcome.error is not None:
            facts["error"] = outcome.error
        if outcome.cmd_seq is not None:
            facts["cmd_seq"] = outcome.cmd_seq
        elif (count := self._count()) is None:
            return
        else:
            facts["count"] = count
        self._append("command_refused" if outcome.error else "command_done", facts)
        if outcome.cmd_seq is not None and outcome.verb not in READING:
            with suppress(StorageError):  # a full disk is told by what needs it; the next command tries again
                self._taken()

    def _count(self) -> int | None:
        """Number of unsigned commands since the last entry about them; None when it is too early for another."""
        self._unsigned += 1
        now_ns = self._clock.monotonic_ns()
        if self._told_ns is not None and now_ns - self._told_ns < UNSIGNED_S * 1_000_000_000:
            return None
        count, self._unsigned, self._told_ns = self._unsigned, 0, now_ns
        return count
