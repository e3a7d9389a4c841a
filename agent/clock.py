# SPDX-License-Identifier: Apache-2.0
"""Time as two separate facts: a monotonic clock for order and age, a wall clock that may be wrong.

A Raspberry Pi has no battery-backed clock: wall time is a labelled statement (``synced`` or
``unsynced``), never the basis of order. Everything that needs time takes a ``Clock``.

How long to wait between attempts is here too: exponential back-off with full jitter, so that a fleet does not come back
all at once (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, "full jitter").
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

ClockState = Literal["synced", "unsynced"]

# adjtimex(2) answers this while no time service (chrony, ntpd, timesyncd) vouches for the clock.
TIME_ERROR = 5
TIMEX_BYTES = 512  # ``struct timex`` has 208 on 64-bit Linux; all zero asks and changes nothing
# systemd-timesyncd touches this file at each synchronisation (systemd-timesyncd.service(8)), every 34 minutes or more
# often. A mark from the future says that the clock was set back since.
TIMESYNC_MARK = Path("/run/systemd/timesync/synchronized")
SYNC_LASTS_S = (
    86_400.0  # then a crystal that is off by 100 ppm is wrong by 9 seconds; the kernel's own limit is 9 hours
)
MARK_AHEAD_S = 60.0  # of a mark that was just made, on a clock that is being slewed
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4)
MAX_DOUBLINGS = 16  # keeps 2**n small; every ceiling in use is reached long before


class Clock(Protocol):
    """What the agent may know about time."""

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back, the clock of sensor timestamps."""

    def now(self) -> datetime:
        """Wall time, aware, UTC; trust it only as far as ``state`` says."""

    def state(self) -> ClockState:
        """Whether the wall clock is known to be right."""

    def refusal(self) -> str | None:
        """Why nobody could be asked whether the clock is right, which ``state`` takes for no; None when one was."""

    def boot(self) -> str:
        """Name of the machine's present run, in which ``monotonic_ns`` can be compared; empty where it has none."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's clocks."""

    def __init__(self, *, mark: Path = TIMESYNC_MARK) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._mark = mark

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def state(self) -> ClockState:
        return "synced" if self._mark_holds() or 0 <= self._kernel_says() < TIME_ERROR else "unsynced"

    def refusal(self) -> str | None:
        if self._mark_holds() or self._kernel_says() >= 0:
            return None
        return os.strerror(ctypes.get_errno())

    def boot(self) -> str:
        try:
            return BOOT_ID.read_text("ascii").strip()
        except (OSError, ValueError):
            return ""

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def _mark_holds(self) -> bool:
        try:
            age_s = time.time() - self._mark.stat().st_mtime
        except OSError:
            return False
        return -MARK_AHEAD_S <= age_s <= SYNC_LASTS_S

    def _kernel_says(self) -> int:
        """What adjtimex(2) answers; -1 where it may not be asked."""
        answer: int = self._libc.adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
        return answer


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

    def refusal(self) -> str | None:
        return None

    def boot(self) -> str:
        return "simulated"

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


class Bucket:
    """A token bucket over the monotonic clock: ``burst`` at once, then ``per_second``."""

    __slots__ = ("_burst", "_last_ns", "_per_second", "_tokens")

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._tokens, self._last_ns = float(burst), 0

    def take(self, now_ns: int) -> bool:
        """Take one at the moment ``now_ns``; whether there was one."""
        gained = max(now_ns - self._last_ns, 0) * self._per_second / 1e9
        self._tokens = min(self._burst, self._tokens + gained)
        self._last_ns = now_ns
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def uniform(random: Callable[[int], bytes]) -> float:
    """Draw a number in [0, 1) from a source of random bytes."""
    return int.from_bytes(random(4), "big") / 4294967296.0  # 2**32


class Bounds(NamedTuple):
    """Seconds: the least wait, what the wait after one failure stays below, and what every wait stays below."""

    least_s: float
    first_s: float
    most_s: float


def full_jitter(failures: int, bounds: Bounds, random: Callable[[int], bytes]) -> float:
    """Seconds to wait after ``failures`` (1 or more) failures in a row: any within bounds that double each time."""
    ceiling = min(bounds.most_s, bounds.first_s * float(1 << min(failures - 1, MAX_DOUBLINGS)))
    return bounds.least_s + uniform(random) * (ceiling - bounds.least_s)
