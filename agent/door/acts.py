# SPDX-License-Identifier: Apache-2.0
"""What people press, asked between frames: a button on a line, a key, a signed request, a press of a scene.

``zone`` needs no input: stepping into it is the act, and the gate sees it. Every input is one class that is an
``Input``. What was pressed while nobody asked counts at the next look; the camera's loop looks about twice a second at
least. A press opens nothing by itself: ``agent.detect.gate`` does, for whoever is nearest, for some seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec

from agent.clock import Clock
from agent.door.lines import Input
from agent.errors import DeviceLostError, PosternError

REOPEN_NS = 5_000_000_000  # between attempts to open an input that went away


class Press(msgspec.Struct, frozen=True):
    """Something was pressed, or asked for; ``on_the_spot`` if only somebody who stands there can have done it."""

    on_the_spot: bool


class Request:
    """What a signed command asks for in somebody's place; no act on the spot."""

    on_the_spot = False

    def __init__(self) -> None:
        self._asked = threading.Event()

    def ask(self) -> None:
        """Press; may be called from any thread."""
        self._asked.set()

    def pressed(self) -> bool:
        if not self._asked.is_set():
            return False  # and not cleared: what is asked for at this moment counts at the next look
        self._asked.clear()
        return True

    def close(self) -> None:
        self._asked.clear()


class ScenePresses:
    """Presses of a scripted scene, in seconds from the first look; for a simulated camera only."""

    on_the_spot = True

    def __init__(self, presses: Sequence[float], clock: Clock) -> None:
        self._left = sorted(presses)
        self._clock = clock
        self._began_ns: int | None = None

    def pressed(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        if self._began_ns is None:
            self._began_ns = now_ns
        due = [at for at in self._left if at * 1e9 <= now_ns - self._began_ns]
        self._left = self._left[len(due) :]
        return bool(due)

    def close(self) -> None:
        self._left = []


class Inputs:
    """All inputs of one unit. Owned by the pipeline's thread."""

    def __init__(
        self, makers: Sequence[Callable[[], Input]], *, clock: Clock, on_problem: Callable[[PosternError], None]
    ) -> None:
        """Open all of them; raises DeviceLostError when one cannot be used."""
        self._makers, self._clock, self._on_problem = tuple(makers), clock, on_problem
        self._open: list[Input | None] = []
        self._retry_ns = 0
        try:
            for make in self._makers:
                self._open.append(make())
        except PosternError:
            self.close()
            raise

    def look(self) -> Press | None:
        """What was pressed since the last look; an input that is gone is told, and opened again when it is back."""
        self._reopen()
        presses = [one.on_the_spot for number, one in enumerate(self._open) if one and self._pressed(number, one)]
        return Press(on_the_spot=any(presses)) if presses else None

    def close(self) -> None:
        for one in self._open:
            if one is not None:
                one.close()
        self._open = [None] * len(self._open)

    def _pressed(self, number: int, one: Input) -> bool:
        try:
            return one.pressed()
        except DeviceLostError as error:
            self._on_problem(error)
            self._open[number] = None
            self._retry_ns = self._clock.monotonic_ns() + REOPEN_NS
            one.close()
            return False

    def _reopen(self) -> None:
        if None not in self._open or self._clock.monotonic_ns() < self._retry_ns:
            return
        self._retry_ns = self._clock.monotonic_ns() + REOPEN_NS
        for number, make in enumerate(self._makers):
            if self._open[number] is None:
                try:
                    self._open[number] = make()
                except DeviceLostError as error:
                    self._on_problem(error)
