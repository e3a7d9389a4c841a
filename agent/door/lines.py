# SPDX-License-Identifier: Apache-2.0
"""Wires in and out, as the door needs them: a button that was pressed, a line that is on for a while.

``Lines`` is the border: ``gpio`` has the real one, rigs and tests bring their own. Nothing here blocks, and a line that
goes away is a ``DeviceLostError``, never silence.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from agent.clock import Clock
from agent.errors import DeviceLostError

REOPEN_NS = 1_000_000_000  # between attempts to take an output line again that went away

Bias = Literal["as_is", "disabled", "pull_up", "pull_down"]


# Neither is a Struct: msgspec was a quarter of what a keeper does until it holds a line.
class InputSpec(NamedTuple):
    """One line of a GPIO chip with a button on it; ``debounce_ms`` is the kernel's."""

    chip: Path
    line: int
    bias: Bias
    active_low: bool
    debounce_ms: int

    def __str__(self) -> str:
        return f"line {self.line} of {self.chip}"


class OutputSpec(NamedTuple):
    """One line of a GPIO chip that something hangs on; off is what the hardware has without power, too.

    ``longest_ms`` is when whoever holds it switches it off again, whatever the unit says; 0 for never.
    """

    chip: Path
    line: int
    active_low: bool
    longest_ms: int = 0

    def __str__(self) -> str:
        return f"line {self.line} of {self.chip}"


class Input(Protocol):
    """Something that a person presses, or that asks in their place."""

    @property
    def on_the_spot(self) -> bool:
        """Whether only somebody who stands there can do it: what an enrolment needs."""
        ...

    def pressed(self) -> bool:
        """Whether it was pressed since the last call; never blocks. Raises DeviceLostError when it is gone."""
        ...

    def close(self) -> None: ...


class OutputLine(Protocol):
    """A line that was off when it was taken, and goes off with the process."""

    def set(self, *, on: bool) -> None:
        """Switch it; raises DeviceLostError."""
        ...

    def close(self) -> None:
        """Switch it off and let go of it."""
        ...


class Lines(Protocol):
    """Takes lines and keys for this process alone. Raises DeviceLostError when one is missing or taken."""

    def open_input(self, spec: InputSpec) -> Input: ...

    def open_key(self, device: Path, key: str) -> Input:
        """The button that is a key of an input device, by its name in linux/input-event-codes.h."""
        ...

    def open_output(self, spec: OutputSpec) -> OutputLine: ...


class KeptLine:
    """An output line that is taken again once it is back, as of a board on USB that was pulled out.

    A line that is taken is off. ``set`` raises DeviceLostError while it cannot be switched.
    """

    def __init__(self, lines: Lines, spec: OutputSpec, clock: Clock) -> None:
        """Take it; raises DeviceLostError."""
        self._lines, self._spec, self._clock = lines, spec, clock
        self._line: OutputLine | None = lines.open_output(spec)
        self._retry_ns = clock.monotonic_ns()

    def set(self, *, on: bool) -> None:
        if self._line is not None:
            try:
                self._line.set(on=on)
            except DeviceLostError:
                if self._clock.monotonic_ns() < self._retry_ns:
                    raise
            else:
                return
        self._take_again().set(on=on)

    def close(self) -> None:
        """Switch it off and let go of it; raises DeviceLostError."""
        line, self._line = self._line, None
        self._retry_ns = self._clock.monotonic_ns() + REOPEN_NS
        if line is not None:
            line.close()

    def _take_again(self) -> OutputLine:
        if self._clock.monotonic_ns() < self._retry_ns:
            raise DeviceLostError(f"{self._spec} cannot be used: it went away, and is looked for again")
        with suppress(DeviceLostError):
            self.close()
        self._line = self._lines.open_output(self._spec)
        return self._line
