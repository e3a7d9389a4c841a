# SPDX-License-Identifier: Apache-2.0
"""Clocks of a rig: a simulated one that does what is due as its time passes, and the machine's with an offset."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from agent.clock import ClockState, SimulatedClock, SystemClock


@dataclass(order=True, slots=True)
class Entry:
    """Something that is due; entries of one moment keep the order in which they were made."""

    due_ns: int
    number: int
    act: Callable[[], None] = field(compare=False)
    every_ns: int | None = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class AgendaClock(SimulatedClock):
    """Sleeping does what is due meanwhile, in order: a unit and all its threads become one deterministic program."""

    def __init__(self, start: datetime, state: ClockState) -> None:
        super().__init__(start, state)
        self._agenda: list[Entry] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> Entry:
        """Do ``act`` in ``seconds``."""
        return self._add(seconds, act, None)

    def every(self, seconds: float, act: Callable[[], None]) -> Entry:
        """Do ``act`` each ``seconds`` until the entry is ``cancelled``."""
        return self._add(seconds, act, round(seconds * 1e9))

    def sleep(self, seconds: float) -> None:
        end_ns = self.monotonic_ns() + round(seconds * 1e9)
        while self._agenda and self._agenda[0].due_ns <= end_ns:
            entry = heapq.heappop(self._agenda)
            self._advance_to(entry.due_ns)
            if entry.cancelled:
                continue
            entry.act()
            if entry.every_ns is not None and not entry.cancelled:
                entry.due_ns, entry.number = entry.due_ns + entry.every_ns, next(self._numbers)
                heapq.heappush(self._agenda, entry)
        self._advance_to(end_ns)

    def _add(self, seconds: float, act: Callable[[], None], every_ns: int | None) -> Entry:
        entry = Entry(self.monotonic_ns() + round(seconds * 1e9), next(self._numbers), act, every_ns)
        heapq.heappush(self._agenda, entry)
        return entry

    def _advance_to(self, moment_ns: int) -> None:
        if moment_ns > self.monotonic_ns():
            self.advance((moment_ns - self.monotonic_ns()) / 1e9)


class OffsetClock(SystemClock):
    """The machine's clocks, the wall moved by what ``file`` says at each look: ``{"seconds": …, "state": …}``."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._said()[0])

    def state(self) -> ClockState:
        return self._said()[1]

    def _said(self) -> tuple[float, ClockState]:
        content = json.loads(self._file.read_text())
        return float(content["seconds"]), "synced" if content["state"] == "synced" else "unsynced"


def say_offset(file: Path, seconds: float, state: ClockState) -> None:
    """Set an ``OffsetClock``, at once and whole."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"seconds": seconds, "state": state}))
    fresh.replace(file)
