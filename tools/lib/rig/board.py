# SPDX-License-Identifier: Apache-2.0
"""A board's GPIO lines without a board: who holds which, what was pressed, and every pulse with its times.

As the kernel does, it gives a line to one holder, off, and lets go of it when the holder does, or dies: ``serve`` gives
lines over a socket, and a process that ends closes it. As many boards do, it leaves a line that nobody holds any more
as it was: whoever dies in a pulse and has nobody to switch it off leaves it on.
"""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.door.kept import KeptLines
from agent.door.lines import Input, InputSpec, OutputLine, OutputSpec
from agent.errors import DeviceLostError

KEYS = 1 << 16  # lines from here on stand for keys
TAKEN = "another program or driver holds it"


def line_of(device: Path, key: str) -> int:
    """The line of the board that stands for a key of an input device: beyond those that a board has."""
    return KEYS + zlib.crc32(f"{device} {key}".encode()) % KEYS


@dataclass(slots=True)
class Pulse:
    """One line that was on; ``off_s`` is None while it is. Seconds of the board's clock."""

    line: int
    on_s: float
    off_s: float | None = None


class Board:
    """See the module; thread-safe. ``now`` gives seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._pressed: Counter[int] = Counter()
        self.pulses: list[Pulse] = []

    def take(self, line: int) -> None:
        """Hold a line, off; DeviceLostError when somebody does."""
        with self._lock:
            if line in self._held:
                raise DeviceLostError(f"line {line} cannot be used: {TAKEN}")
            self._held.add(line)
            self._pressed[line] = 0  # as the kernel, which tells nothing of before
        self.drive(line, on=False)

    def release(self, line: int) -> None:
        """Let go of a line, which stays as it is."""
        with self._lock:
            self._held.discard(line)

    def drive(self, line: int, *, on: bool) -> None:
        with self._lock:
            lit = next((one for one in self.pulses if one.line == line and one.off_s is None), None)
            if on and lit is None:
                self.pulses.append(Pulse(line, self._now()))
            elif not on and lit is not None:
                lit.off_s = self._now()

    def press(self, line: int) -> None:
        """Press the button on a line; nobody hears of it unless somebody holds the line."""
        with self._lock:
            self._pressed[line] += 1

    def was_pressed(self, line: int) -> bool:
        with self._lock:
            pressed, self._pressed[line] = self._pressed[line] > 0, 0
            return pressed


class BoardLines:
    """``Lines`` of a board in this process."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def open_input(self, spec: InputSpec) -> Input:
        return _Held(self._board, spec.line)

    def open_key(self, device: Path, key: str) -> Input:
        return _Held(self._board, line_of(device, key))

    def open_output(self, spec: OutputSpec) -> OutputLine:
        return _Held(self._board, spec.line)


class _Held:
    on_the_spot = True

    def __init__(self, board: Board, line: int) -> None:
        board.take(line)
        self._board, self._line = board, line

    def pressed(self) -> bool:
        return self._board.was_pressed(self._line)

    def set(self, *, on: bool) -> None:
        self._board.drive(self._line, on=on)

    def close(self) -> None:
        self.set(on=False)
        self._board.release(self._line)


@contextmanager
def serve(board: Board, path: Path) -> Iterator[None]:
    """Give the board's lines to other processes, at the socket ``path``."""

    class Holder(socketserver.StreamRequestHandler):
        """One line, for as long as the other side lives."""

        def handle(self) -> None:
            line = int(self.rfile.readline() or b"-1")
            try:
                board.take(line)
            except DeviceLostError:
                return
            try:
                self.wfile.write(b"h")
                while said := self.rfile.read(1):
                    if said in b"01":
                        board.drive(line, on=said == b"1")
                    self.wfile.write(b"p" if said == b"?" and board.was_pressed(line) else b"-")
            except OSError:  # the other side was killed
                pass
            finally:
                board.release(line)

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        request_queue_size = 32

    path.unlink(missing_ok=True)
    with Server(str(path), Holder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


# A keeper that has its lines from a board; the paths of this Python follow the socket's.
KEEPER = """
import sys
sys.path[:] = sys.argv[2:]
from pathlib import Path
from agent.door.keeper import main
from tools.lib.rig.board import SocketLines
main(SocketLines(Path(sys.argv[1])).open_output)
"""


class BoardOfAUnit:
    """``Lines`` of a board in another process, as a unit has them: a keeper holds the outputs."""

    def __init__(self, path: Path) -> None:
        self._own = SocketLines(path)
        self._kept = KeptLines([sys.executable, "-I", "-S", "-c", KEEPER, str(path), *sys.path])

    def open_input(self, spec: InputSpec) -> Input:
        return self._own.open_input(spec)

    def open_key(self, device: Path, key: str) -> Input:
        return self._own.open_key(device, key)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        return self._kept.open_output(spec)


class SocketLines:
    """``Lines`` of a board in another process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open_input(self, spec: InputSpec) -> Input:
        return _Wire(self._path, spec.line)

    def open_key(self, device: Path, key: str) -> Input:
        return _Wire(self._path, line_of(device, key))

    def open_output(self, spec: OutputSpec) -> OutputLine:
        return _Wire(self._path, spec.line)


class _Wire:
    on_the_spot = True

    def __init__(self, path: Path, line: int) -> None:
        self._line = line
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise DeviceLostError(f"line {line} cannot be used: there is no such board") from error
        if self._say(f"{line}\n".encode()) != b"h":
            self._socket.close()
            raise DeviceLostError(f"line {line} cannot be used: {TAKEN}")

    def pressed(self) -> bool:
        return self._say(b"?") == b"p"

    def set(self, *, on: bool) -> None:
        self._say(b"1" if on else b"0")

    def close(self) -> None:
        with suppress(DeviceLostError):
            self.set(on=False)
        self._socket.close()

    def _say(self, words: bytes) -> bytes:
        try:
            self._socket.sendall(words)
            return self._socket.recv(1)
        except OSError as error:
            raise DeviceLostError(f"line {self._line} cannot be used: the board is gone") from error
