# SPDX-License-Identifier: Apache-2.0
"""What has to happen by itself, on a thread of its own: sweeps, retries, and watching clock and disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial

import msgspec

from agent.clock import Clock
from agent.errors import PosternError
from agent.protocol.event import Condition
from agent.unit.beside import Beside

TICK_S = 1.0  # seconds between looks; what drifts and fills is slower, and a consent that ends ends by then
CLOCK_STEP_S = 5.0  # wall time that jumps further than this against the monotonic clock was set, not slewed
# A clock that two services pull at would fill the queue: each of a few steps is told, then one tells of all.
CLOCK_STEPS_AT_ONCE, CLOCK_STEP_EVERY_S = 4, 60.0
STORAGE_LOW_BYTES = 64 * 1024 * 1024  # room for the outbox at its limit and the journal beside it
STORAGE_BACK_BYTES = 2 * STORAGE_LOW_BYTES  # hysteresis: the condition is not reported again and again


class Duties(msgspec.Struct, frozen=True):
    """What housekeeping calls; each may raise PosternError, which is handed to ``on_problem``."""

    retry: Callable[[], None]
    remind: Callable[[], None]
    configure: Callable[[], None]
    sweep: Callable[[datetime], None]
    expire: Callable[[], None]
    disk_free: Callable[[], int]
    unit_event: Callable[[Condition], None]
    on_problem: Callable[[PosternError], None]


class Housekeeping(Beside):
    """Run ``tick`` once a second until stopped."""

    def __init__(self, duties: Duties, *, clock: Clock) -> None:
        super().__init__("housekeeping")
        self._duties, self._clock = duties, clock
        self._offset_s = self._offset()
        self._stepped = False  # and not told yet
        self._told_ns: deque[int] = deque(maxlen=CLOCK_STEPS_AT_ONCE)
        self._storage_low = False

    def tick(self) -> None:
        """Look at everything once; no failure of one duty keeps another from being done."""
        sweep = partial(self._duties.sweep, self._clock.now())  # at each look: who may go is announced no longer
        duties = (
            sweep,
            self._watch_clock,
            self._watch_disk,
            self._duties.retry,
            self._duties.remind,
            self._duties.configure,
            self._duties.expire,
        )
        for duty in duties:
            try:
                duty()
            except PosternError as error:
                self._duties.on_problem(error)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            self.tick()

    def _offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic_ns() / 1e9

    def _watch_clock(self) -> None:
        offset_s = self._offset()
        self._stepped |= abs(offset_s - self._offset_s) > CLOCK_STEP_S
        self._offset_s = offset_s
        now_ns = self._clock.monotonic_ns()
        recent = sum((now_ns - told_ns) / 1e9 < CLOCK_STEPS_AT_ONCE * CLOCK_STEP_EVERY_S for told_ns in self._told_ns)
        if self._stepped and recent < CLOCK_STEPS_AT_ONCE:
            self._duties.unit_event("clock_step")
            self._stepped = False
            self._told_ns.append(now_ns)

    def _watch_disk(self) -> None:
        free = self._duties.disk_free()
        if not self._storage_low and free < STORAGE_LOW_BYTES:
            self._storage_low = True
            self._duties.unit_event("storage_low")
        elif self._storage_low and free > STORAGE_BACK_BYTES:
            self._storage_low = False
