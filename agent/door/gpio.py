# SPDX-License-Identifier: Apache-2.0
"""Lines of the board by the kernel's GPIO character device (libgpiod 2): debounce and bias are the kernel's.

The kernel lets go of a line when the process ends, however it ends. What the pin does then is the driver's: some keep
its level, others make it an input, which the board's resistors pull: wire whatever opens so that this is shut.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent.door.keys import KeyButton
from agent.door.lines import Input, InputSpec, OutputLine, OutputSpec
from agent.errors import DeviceLostError, printable

if TYPE_CHECKING:
    from gpiod import LineRequest

CONSUMER = "postern"  # as ``gpioinfo`` shows it
MAX_READS = 16  # of the kernel's buffer at one look: a line that flutters must not hold up the frames
MISSING = "gpiod is missing: install the package of Postern again, or the wheel gpiod"


def line_problem(chip: Path, line: int) -> str | None:
    """Why a line of a chip that is there cannot be used, as the kernel tells while nobody takes it; None: nothing said.

    A line that a running unit holds can be used: by that unit. Nothing is said without the library, or the right to
    look at the chip.
    """
    try:
        import gpiod  # noqa: PLC0415

        with gpiod.Chip(str(chip)) as opened:
            count = opened.get_info().num_lines
            if line >= count:
                return f"{chip} has no line {line}, only 0 to {count - 1}: name one that gpioinfo shows"
            held = opened.get_line_info(line)
    except (ImportError, PermissionError):
        return None
    except (OSError, ValueError) as error:
        return f"line {line} of {chip} cannot be used: {_advice(error)}"
    if not held.used or held.consumer == CONSUMER:
        return None
    by = printable(held.consumer) or "a driver"
    return f"line {line} of {chip} is held by {by}: free it, or name another line"


class GpiodLines:
    """Implements ``Lines``; the libraries are imported when the first line or key is asked for."""

    def open_input(self, spec: InputSpec) -> Input:
        return _GpioButton(spec)

    def open_key(self, device: Path, key: str) -> Input:
        return KeyButton(device, key)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        return _GpioOutput(spec)


class _GpioButton:
    on_the_spot = True

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        with _explained(spec):
            import gpiod  # noqa: PLC0415 - only boards with wires have it
            from gpiod.line import Bias, Direction, Edge  # noqa: PLC0415

            settings = gpiod.LineSettings(
                direction=Direction.INPUT,
                edge_detection=Edge.RISING,  # of the logical value: pressed
                bias=Bias[spec.bias.upper()],
                active_low=spec.active_low,
                debounce_period=timedelta(milliseconds=spec.debounce_ms),
            )
            self._request: LineRequest = gpiod.request_lines(
                str(spec.chip), config={spec.line: settings}, consumer=CONSUMER
            )

    def pressed(self) -> bool:
        with _explained(self._spec):
            found = False
            for _ in range(MAX_READS):
                if not self._request.wait_edge_events(timedelta(0)):
                    break
                found = bool(self._request.read_edge_events()) or found
            return found

    def close(self) -> None:
        self._request.release()


class _GpioOutput:
    def __init__(self, spec: OutputSpec) -> None:
        self._spec = spec
        with _explained(spec):
            import gpiod  # noqa: PLC0415
            from gpiod.line import Direction, Value  # noqa: PLC0415

            settings = gpiod.LineSettings(
                direction=Direction.OUTPUT, active_low=spec.active_low, output_value=Value.INACTIVE
            )
            self._values = (Value.INACTIVE, Value.ACTIVE)
            self._request: LineRequest = gpiod.request_lines(
                str(spec.chip), config={spec.line: settings}, consumer=CONSUMER
            )

    def set(self, *, on: bool) -> None:
        with _explained(self._spec):
            self._request.set_value(self._spec.line, self._values[on])

    def close(self) -> None:
        try:
            self.set(on=False)
        finally:
            self._request.release()


@contextmanager
def _explained(spec: InputSpec | OutputSpec) -> Iterator[None]:
    """Turn what the library raises into one sentence."""
    try:
        yield
    except ImportError as error:
        raise DeviceLostError(f"{spec} cannot be used: {MISSING}") from error
    except (OSError, ValueError) as error:
        raise DeviceLostError(f"{spec} cannot be used: {_advice(error)}") from error


def _advice(error: OSError | ValueError) -> str:
    match getattr(error, "errno", None):
        case errno.EBUSY:
            return "another program or driver holds it: free it (gpioinfo says who), or name another line"
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "there is no such chip: name one that gpiodetect shows"
        case errno.EACCES | errno.EPERM:
            return "this user may not use it: put the service's user into the group that owns the chip (gpio)"
        case errno.EINVAL | None:
            return "the chip has no such line, or cannot do what is asked of it: name one that gpioinfo shows"
        case _:
            return f"{getattr(error, 'strerror', None) or 'it failed'}: look at the wiring, then at gpioinfo"
