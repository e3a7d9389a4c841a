# SPDX-License-Identifier: Apache-2.0
"""Time as two separate facts: a monotonic clock for order and age, a wall clock that may be wrong.

A Raspberry Pi has no battery-backed clock: wall time is a labelled statement (``synced`` or
``unsynced``), never the basis of order. Everything that needs time takes a ``Clock``.
"""

from __future__ import annotations

import ctypes
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

ClockState = Literal["synced", "unsynced"]

# adjtimex(2) answers this while no time service (chrony, ntpd, timesyncd) vouches for the clock.
TIME_ERROR = 5
TIMEX_BYTES = 512  # ``struct timex`` has 208 on 64-bit Linux; all zero asks and changes nothing
# systemd-timesyncd touches this file at each synchronisation (systemd-timesyncd.service(8)).
TIMESYNC_MARK = Path("/run/systemd/timesync/synchronized")


class Clock(Protocol):
    """What the agent may know about time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back, the clock of sensor timestamps."""

    def now(self) -> datetime:
        """Wall time, aware, UTC; trust it only as far as ``state`` says."""

    def state(self) -> ClockState:
        """Whether the wall clock is known to be right."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def state(self) -> ClockState:
        return "synced" if TIMESYNC_MARK.exists() or self._kernel_is_synced() else "unsynced"

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _kernel_is_synced(self) -> bool:
        answer: int = self._libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
        return 0 <= answer < TIME_ERROR


class SimulatedClock:
    """A clock that moves only when told to: scenes, rigs and tests are deterministic on it."""

    def __init__(self, start: datetime = datetime(2026, 1, 5, 8, 0, tzinfo=UTC), state: ClockState = "synced") -> None:
        self._monotonic_ns = 0
        self._wall = start
        self._state: ClockState = state

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def now(self) -> datetime:
        return self._wall

    def state(self) -> ClockState:
        return self._state

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both clocks."""
        self._monotonic_ns += round(seconds * 1e9)
        self._wall += timedelta(seconds=seconds)

    def step_wall(self, seconds: float, state: ClockState | None = None) -> None:
        """Move the wall clock alone, as a wrong time server or a reset battery would."""
        self._wall += timedelta(seconds=seconds)
        self._state = state or self._state
