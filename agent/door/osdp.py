# SPDX-License-Identifier: Apache-2.0
"""A reader at an access controller (OSDP peripheral, IEC 60839-11-5): the unit reports, the controller inside decides.

By libosdp, in the secure channel alone: without the key that both have nothing is reported and nothing is obeyed, and
the key is never set over the line. What is reported is a card number; what a rule says opens nothing by itself. The
controller answers as it does to any reader, by an output that goes on or a green light: that is shown as ``granted``.

A report is for the moment. It is given up when the controller is not there, or has not fetched it within
``REPORT_NS``, together with those behind it: a door must not open for somebody who left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from agent.clock import Clock
from agent.door.frames import Commands
from agent.errors import DeviceLostError, PosternError

REPORT_NS: Final = 2_000_000_000  # a controller asks twenty times a second
SILENT_NS: Final = 10_000_000_000  # without a secure channel for so long: somebody has to look at it
REOPEN_NS: Final = 5_000_000_000  # between attempts to open a line that went away
REFRESH_S: Final = 0.005  # between looks at the line: a controller waits 200 ms for an answer
MAX_READ_BYTES: Final = 1024
KEY_BYTES: Final = 16  # SCBK, AES-128
MISSING: Final = "libosdp is missing: install the wheel libosdp (pip install 'postern[osdp]')"
# Of an output's control code what switches it on, and of a light's colours what everybody takes for 'come in'.
_OUTPUT_ON, _GREEN = frozenset({2, 4, 5}), 2

OnProblem = Callable[[PosternError], None]
MakeDevice = Callable[..., Any]  # of (spec, line, on command, on report fetched) a device of the library, untyped


@dataclass(frozen=True, slots=True)
class PanelSpec:
    """A serial line to a controller; ``key`` is the secure channel's base key, 16 bytes."""

    device: Path
    address: int
    baud: int
    key: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"the controller at {self.device} (reader {self.address})"


class Panel(Protocol):
    """A controller to which this unit is a reader; may be called from any thread."""

    def report(self, card: bytes) -> bool:
        """Report a card number; whether the controller is there to hear it. Never blocks for long."""
        ...

    def is_secure(self) -> bool:
        """Whether the controller talks to this reader, with the same key."""
        ...

    def granted(self) -> bool:
        """Whether the controller has let somebody in since the last call."""
        ...

    def close(self) -> None: ...


class Panels(Protocol):
    """Opens lines to controllers. Raises DeviceLostError when one is missing or taken."""

    def open_panel(self, spec: PanelSpec, clock: Clock, on_problem: OnProblem) -> Panel: ...


class OsdpPanels:
    """Implements ``Panels``; the library is imported when the first one is opened."""

    def __init__(self, make: MakeDevice | None = None) -> None:
        """``make`` makes another device than libosdp's."""
        self._make = make or make_device

    def open_panel(self, spec: PanelSpec, clock: Clock, on_problem: OnProblem) -> Panel:
        return _Reader(spec, clock, on_problem, self._make)


class _Reader:
    def __init__(self, spec: PanelSpec, clock: Clock, on_problem: OnProblem, make: MakeDevice) -> None:
        self._spec, self._clock, self._on_problem = spec, clock, on_problem
        self._lock = threading.Lock()
        self._stop, self._granted = threading.Event(), threading.Event()
        self._secure = False
        self._failed_ns: int | None = None  # when a fault of the library was told
        self._silent_ns = self._clock.monotonic_ns()
        self._reports_ns: deque[int] = deque()  # when each was reported that waits for the controller, oldest first
        self._line = _Line(spec, clock)
        try:
            self._device = make(spec, self._line, self._obey, self._fetched)
        except DeviceLostError:
            self._line.close()
            raise
        self._thread = threading.Thread(target=self._run, name="postern-osdp", daemon=True)
        self._thread.start()

    def report(self, card: bytes) -> bool:
        from osdp import CardFormat, Event  # noqa: PLC0415 - an optional extra

        read = {
            "event": Event.CardRead,
            "reader_no": 0,
            "direction": 0,
            "format": CardFormat.Unspecified,
            "length": 8 * len(card),  # bits
            "data": card,
        }
        with self._lock:
            heard = self._secure and bool(self._device.submit_event(read))
            if heard:
                self._reports_ns.append(self._clock.monotonic_ns())
        if not heard:
            self._on_problem(DeviceLostError(f"{self._spec} is not there: nobody can be reported to it"))
        return heard

    def is_secure(self) -> bool:
        return self._secure

    def granted(self) -> bool:
        found = self._granted.is_set()
        self._granted.clear()
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join(1.0)
        self._line.close()

    def _run(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                with self._lock:
                    self._device.refresh()
                    self._watch(self._clock.monotonic_ns())
            except Exception as error:  # noqa: BLE001 - whatever a library of C raises must not end this thread unseen
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        """While the library fails nobody can be reported; it is asked again at the next look."""
        now_ns = self._clock.monotonic_ns()
        with self._lock:
            self._secure = False
            self._reports_ns.clear()
        if self._failed_ns is None or now_ns - self._failed_ns > SILENT_NS:
            self._failed_ns = now_ns
            kind = type(error).__name__  # no more of it: what it says may be of the line
            self._on_problem(DeviceLostError(f"{self._spec} has a fault of libosdp ({kind}): start the unit again"))

    def _watch(self, now_ns: int) -> None:
        secure = bool(self._device.is_sc_active()) and not self._line.is_lost
        if self._reports_ns and (now_ns - self._reports_ns[0] > REPORT_NS or not secure):
            self._device.flush_events()
            self._reports_ns.clear()
            self._on_problem(DeviceLostError(f"{self._spec} did not fetch a report in time: it was given up"))
        if secure or self._secure:
            self._silent_ns = now_ns
        self._secure = secure
        if now_ns - self._silent_ns > SILENT_NS:
            self._silent_ns = now_ns
            self._on_problem(
                DeviceLostError(
                    f"{self._spec} does not talk to this unit: check the wires, address and baud rate, and that both"
                    " have the same key"
                )
            )
        self._line.reopen(now_ns)

    def _obey(self, command: Mapping[str, Any]) -> tuple[int, dict[str, Any] | None]:
        """Take what a controller tells a reader; another key or speed is set by nobody over the line."""
        from osdp import Command  # noqa: PLC0415

        kind = command.get("command")
        if kind in (Command.Keyset, Command.Comset, Command.FileTransfer, Command.Manufacturer):
            return -1, None
        on = kind == Command.Output and command.get("control_code") in _OUTPUT_ON
        if on or (kind == Command.LED and _is_green(command)):
            self._granted.set()
        return 0, None

    def _fetched(self, *_: object) -> None:
        self._line.commands.reported(REPORT_NS)
        if self._reports_ns:  # none, where it is told of those that were given up
            self._reports_ns.popleft()


def _is_green(command: Mapping[str, Any]) -> bool:
    """Whether a light is set to green, for a while (control code 2) or for good (1)."""
    sets = command.get("control_code") == (2 if command.get("temporary") else 1)
    return sets and command.get("on_color") == _GREEN


def make_device(spec: PanelSpec, line: _Line, obey: Callable[..., Any], fetched: Callable[..., None]) -> Any:  # noqa: ANN401 - untyped
    """Libosdp's device. Raises DeviceLostError where the library is missing."""
    try:
        import osdp_sys  # noqa: PLC0415
        from osdp import Capability, LibFlag, LogLevel, PDCapabilities, PDInfo  # noqa: PLC0415
    except ImportError as error:
        raise DeviceLostError(f"{spec} cannot be used: {MISSING}") from error
    abilities = [(Capability.OutputControl, 1, 1), (Capability.LEDControl, 1, 1), (Capability.AudibleControl, 1, 1)]
    osdp_sys.set_loglevel(LogLevel.Emergency)  # what there is to tell is told in sentences of our own
    info = PDInfo(spec.address, line, scbk=spec.key, name="postern", flags=[LibFlag.EnforceSecure])
    device = osdp_sys.PeripheralDevice(info.get(), capabilities=PDCapabilities(abilities).get())
    device.set_command_callback(obey)
    device.set_event_completion_callback(fetched)
    return device


class _Line:
    """A serial line for this process alone: raw, eight bits, no parity. Reads and writes what is possible at once."""

    id = 0  # the library's name for a line; one device is one

    def __init__(self, spec: PanelSpec, clock: Clock) -> None:
        self._spec, self._clock = spec, clock
        self.commands, self._ready = Commands(spec.address), b""
        self._file: int | None = self._open()
        self._retry_ns = 0

    @property
    def is_lost(self) -> bool:
        return self._file is None

    def read(self, count: int) -> bytes:
        """Commands that are to be obeyed, or a part of them."""
        obey, repeat = self.commands.take(self._receive(), self._clock.monotonic_ns())
        self._send(repeat)
        ready = self._ready + obey
        self._ready = ready[count:]
        return ready[:count]

    def write(self, content: bytes) -> int:
        """Answer; how much of it could be sent."""
        sent = self._send(content)
        self.commands.answered(content[:sent], self._clock.monotonic_ns())
        return sent

    def _receive(self) -> bytes:
        try:
            return b"" if self._file is None else os.read(self._file, MAX_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            self.close()
            return b""

    def _send(self, content: bytes) -> int:
        try:
            return 0 if self._file is None or not content else os.write(self._file, content)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0

    def flush(self) -> None:
        """Drop what came in and was not read."""
        self._ready = b""
        if self._file is not None:
            with contextlib.suppress(termios.error):
                termios.tcflush(self._file, termios.TCIFLUSH)

    def reopen(self, now_ns: int) -> None:
        """Open it again, once in a while, when it went away."""
        if self._file is None and now_ns >= self._retry_ns:
            self._retry_ns = now_ns + REOPEN_NS
            with contextlib.suppress(DeviceLostError):
                self._file = self._open()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self.commands, self._ready = Commands(self._spec.address), b""

    def _open(self) -> int:
        spec = self._spec
        try:
            file = os.open(spec.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise DeviceLostError(f"{spec} cannot be used: {_advice(error)}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tty.setraw(file)
            settings = termios.tcgetattr(file)
            settings[4] = settings[5] = getattr(termios, f"B{spec.baud}")
            settings[2] |= termios.CLOCAL | termios.CREAD
            termios.tcsetattr(file, termios.TCSANOW, settings)
        except (OSError, termios.error) as error:
            os.close(file)
            raise DeviceLostError(f"{spec} cannot be used: {_advice(error)}") from error
        return file


def _advice(error: Exception) -> str:
    if isinstance(error, BlockingIOError):
        return "another program holds the line: end it, or name another line"
    if isinstance(error, FileNotFoundError):
        return "there is no such line: plug the adapter in, or name one of /dev/serial/by-id"
    if isinstance(error, PermissionError):
        return "this user may not use it: put the service's user into the group that owns it (dialout)"
    return "it is no serial line that can be set up: name one of /dev/serial/by-id"
