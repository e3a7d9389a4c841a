# SPDX-License-Identifier: Apache-2.0
"""The time by which things are destroyed for their age. A clock that jumps destroys nothing.

The wall clock is a statement of whoever sets it: a false time server would wipe a gallery within a second. So there is
a second time, the settled one. It runs by the monotonic clock alone, across restarts within one boot of the machine,
and is kept in a file. While a unit is switched off it stands still and so falls behind: what a unit destroys for its
age, it may destroy late, never early. (What is past its time by either clock matches nobody from that second on.)

It catches up with the wall clock only by what that was ahead at every look over a whole window of running time, with
the clock known to be right throughout: ``WINDOW_S`` for a lead up to ``UNASKED``, ``LONG_WINDOW_S`` for a longer one,
or at once when the site says so. A window goes on across restarts, so that a unit that is switched off every night
catches up as well. A unit that never learns the time goes by its running time.

Said plainly: time is only as good as its source. A false time that stands for a whole window, and that nobody looks at
though the unit tells of it, becomes the settled one.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.clock import Clock
from agent.disk.files import write_atomic
from agent.errors import StorageError
from agent.parse.strict_json import StrictJsonError, decode

WINDOW_S = 86_400.0  # a false time server is noticed within a day, and a unit that was away forgets a day late
LONG_WINDOW_S = 30 * WINDOW_S  # for a lead that nobody confirms: a unit that lay in a box for months must forget, too
UNASKED = timedelta(days=7)  # a weekend, a week's holiday; a longer lead asks the site
STEP_S = 10.0  # of a clock that is slewed by 100 ppm for a day; what is further away has jumped
SAVE_S = 600.0  # between writes of the file: a power cut costs the settled time as much at most
MAX_FILE_BYTES = 1024
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # where a clock without a battery begins
LATEST = datetime(9000, 1, 1, tzinfo=UTC)  # no clock means it, and sums with later dates may not exist

Seconds = Annotated[float, Meta(ge=-1e12, le=1e12)]  # more than there are years


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file. ``low`` and ``high`` bound the lead over the window so far."""

    boot: Annotated[str, Meta(max_length=64)]
    monotonic_ms: Annotated[int, Meta(ge=0)]
    settled: Annotated[datetime, Meta(tz=True)]
    established: bool
    ran_s: Annotated[float, Meta(ge=0, le=1e10)]
    low: Seconds
    high: Seconds


class Ageing:
    """See the module. Thread-safe. Without ``path`` it lives as long as the process.

    With ``look_only`` the file is read and never written. A file that is missing or damaged begins anew: nothing is
    destroyed for its age before a whole window has passed.
    """

    def __init__(self, clock: Clock, path: Path | None = None, *, look_only: bool = False) -> None:
        self._clock, self._path = clock, None if look_only else path
        self._lock = threading.Lock()
        self._last_ns = self._saved_ns = clock.monotonic_ns()
        kept = None if path is None else read_kept(path)
        if kept is None:
            self._settled, self._established, self._ran_s = self.wall(), False, 0.0
            self._begin_window(0.0)
            with suppress(StorageError):  # a full disk blocks nothing: it is tried again
                self.save()
            return
        self._settled, self._established, self._ran_s = kept.settled.astimezone(UTC), kept.established, kept.ran_s
        self._low, self._high = kept.low, kept.high
        kept_ns = kept.monotonic_ms * 1_000_000
        if kept.boot and kept.boot == clock.boot() and kept_ns <= self._last_ns:  # the machine ran on meanwhile
            self._last_ns = kept_ns
        self.look()

    def settled(self) -> datetime | None:
        """What is due by now may be destroyed; None while nothing may. Never after the wall clock, if that is right."""
        self.look()
        with self._lock:
            if not self._established:
                return None
            if self._clock.state() == "synced":
                return min(self._settled, self.wall())
            return self._settled

    def known(self) -> datetime | None:
        """The settled time also where the wall clock is behind it, for what measures how old something is; or None."""
        self.look()
        with self._lock:
            return self._settled if self._established else None

    def wall(self) -> datetime:
        """The wall clock, whatever it is worth; aware, UTC."""
        return min(self._clock.now().astimezone(UTC), LATEST)

    def latest(self) -> datetime:
        """The wall clock, or the settled time where that one is behind: what has ended by now counts no more."""
        self.look()
        with self._lock:
            return max(self._settled, self.wall())

    def lead(self) -> timedelta:
        """How far the wall clock is ahead of the settled time, or behind (negative); 0 while it may be wrong."""
        self.look()
        with self._lock:
            return timedelta(seconds=self._lead_s())

    def asks(self) -> bool:
        """Whether the clock is so far ahead that the site should say whether it is right."""
        return self.lead() > UNASKED

    def confirm(self, at: datetime) -> None:
        """Settle on ``at``, which the site vouches for. Raises StorageError when it cannot be kept."""
        with self._lock:
            self._settled, self._established = min(at.astimezone(UTC), LATEST), True
            self._last_ns = self._clock.monotonic_ns()
            self._begin_window(self._lead_s())
        self.save()

    def look(self) -> None:
        """Compare the clocks; called by whoever asks, and at least once a second by the running unit."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            elapsed_s = max(now_ns - self._last_ns, 0) / 1e9
            self._last_ns = now_ns
            self._settled = min(self._settled + timedelta(seconds=elapsed_s), LATEST)
            self._ran_s += elapsed_s
            lead_s = self._lead_s()
            if not self._established and abs(lead_s) > STEP_S:  # nothing was settled yet: begin at the new time
                self._settled = self.wall()
                self._begin_window(0.0)
                lead_s = 0.0
            self._low, self._high = min(self._low, lead_s), max(self._high, lead_s)
            if self._is_over():
                gained_s = max(self._low, 0.0) or min(self._high, 0.0)
                self._settled += timedelta(seconds=gained_s)
                self._established = True
                self._begin_window(lead_s - gained_s)
            due = (now_ns - self._saved_ns) / 1e9 >= SAVE_S
        if due:
            with suppress(StorageError):  # a full disk: the settled time falls behind at the next start, no more
                self.save()

    def save(self) -> None:
        """Keep where it stands; raises StorageError."""
        if self._path is None:
            return
        with self._lock:
            self._saved_ns = self._last_ns
            kept = _Kept(
                boot=self._clock.boot(),
                monotonic_ms=-(-self._last_ns // 1_000_000),
                settled=self._settled,
                established=self._established,
                ran_s=self._ran_s,
                low=self._low,
                high=self._high,
            )
            write_atomic(self._path, msgspec.json.encode(kept))

    def close(self) -> None:
        """Keep where it stands if the disk lets it."""
        self.look()
        with suppress(StorageError):
            self.save()

    def _lead_s(self) -> float:
        if self._clock.state() != "synced":
            return 0.0
        return (self.wall() - self._settled).total_seconds()

    def _is_over(self) -> bool:
        """Whether the window is: the long one where the site should be asked, or nothing was ever known."""
        sure = self._low <= UNASKED.total_seconds() and (self._established or self._clock.state() == "synced")
        return self._ran_s >= (WINDOW_S if sure else LONG_WINDOW_S)

    def _begin_window(self, lead_s: float) -> None:
        self._ran_s, self._low, self._high = 0.0, lead_s, lead_s


def read_kept(path: Path) -> _Kept | None:
    """What an ``Ageing`` kept at ``path``; None when there is nothing that can be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        kept = decode(content, _Kept, MAX_FILE_BYTES, floats=True)
    except StrictJsonError:
        return None
    return kept if EARLIEST <= kept.settled <= LATEST else None
