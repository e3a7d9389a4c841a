# SPDX-License-Identifier: Apache-2.0
"""Pulses on lines: off at the start, on for the time that the configuration says, off again whoever else hangs.

``tick`` ends pulses; it runs beside the pipeline, on a thread of its own, so that a camera or model that is stuck
leaves no line on. On a board another process holds the lines (``agent.door.keeper``): it ends each pulse, too, and
switches everything off when this process ends, however it ends; the service manager then has ``postern door-off``
switch it off once more. No pulse is longer than ``MAX_PULSE_NS``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

import msgspec

from agent.clock import Clock
from agent.door.lines import KeptLine, Lines, OutputSpec
from agent.errors import DeviceLostError, PosternError

log = logging.getLogger("postern")

MAX_PULSE_NS = 60_000_000_000  # a minute; what must stay open longer is no pulse
TICK_S = 0.02  # between looks at what is due: the error of a pulse's length


class PulseSpec(msgspec.Struct, frozen=True):
    """An output: its line, and how long a pulse is in nanoseconds."""

    line: OutputSpec
    pulse_ns: int

    def __post_init__(self) -> None:
        if not 0 < self.pulse_ns <= MAX_PULSE_NS:
            raise ValueError(f"a pulse lasts at most {MAX_PULSE_NS // 10**9} seconds")


class Outputs:
    """The output lines of one unit; thread-safe.

    ``on_problem`` gets what keeps a line from being switched. A line that could not be switched off is tried again at
    every tick; one that went away is taken again, off, once it is back.
    """

    def __init__(
        self, specs: Mapping[str, PulseSpec], lines: Lines, *, clock: Clock, on_problem: Callable[[PosternError], None]
    ) -> None:
        """Take all lines, off; raises DeviceLostError when one cannot be used, and then none is held."""
        self._specs, self._clock, self._on_problem = dict(specs), clock, on_problem
        self._lock = threading.Lock()
        self._ends_ns: dict[str, int] = {}  # of each that is on, or may be
        self._lit: set[str] = set()  # those that went on
        self._lines: dict[str, KeptLine] = {}
        try:
            for name, spec in self._specs.items():
                self._lines[name] = KeptLine(lines, spec.line, clock)
        except PosternError:
            self.close()
            raise

    @property
    def names(self) -> frozenset[str]:
        """The outputs that have a line."""
        return frozenset(self._specs)

    def pulse(self, name: str) -> bool:
        """Switch an output on for its time; whether it is on now. One that is on stays on no longer than it would.

        It is told again to one that is on: what held it may have died meanwhile, and nobody is let in by a line that
        went off, or never went on.
        """
        with self._lock:
            if name not in self._lines:
                return False
            ends_ns = self._clock.monotonic_ns() + self._specs[name].pulse_ns
            self._ends_ns.setdefault(name, ends_ns)
            try:
                self._lines[name].set(on=True)
            except DeviceLostError as error:
                self._on_problem(error)  # its end stays due: whether it is on is not known
                self._lit.discard(name)
                return False
            if name not in self._lit:  # the first attempt that worked
                self._ends_ns[name] = ends_ns
                self._lit.add(name)
            return True

    def tick(self) -> None:
        """End the pulses that are due."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            for name in [name for name, end in self._ends_ns.items() if now_ns >= end]:
                try:
                    self._lines[name].set(on=False)
                    del self._ends_ns[name]
                    self._lit.discard(name)
                except DeviceLostError as error:
                    self._on_problem(error)

    def close(self) -> None:
        """Switch everything off and let go of the lines."""
        with self._lock:
            for line in self._lines.values():
                try:
                    line.close()
                except DeviceLostError as error:
                    self._on_problem(error)
            self._lines, self._ends_ns, self._lit = {}, {}, set()


class Ticking:
    """Calls ``tick`` on a thread of its own until it is stopped, whatever it raises: nothing else ends a pulse."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postern-outputs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        failed = False
        while not self._stop.wait(TICK_S):
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - as when memory is short for a moment
                if not failed:  # told once, however long it lasts
                    log.error("pulses could not be ended (%s): it is tried again", type(error).__name__)  # noqa: TRY400
                failed = True
            else:
                failed = False
