# SPDX-License-Identifier: Apache-2.0
"""The unit's side of the keeper (``agent.door.keeper``): output lines that another process holds and ends.

The kernel's GPIO lines have no pulse that ends by itself, and what it lets go of when a process dies keeps its level on
many boards. So the two guard each other: where the unit dies the keeper switches off, and where the keeper dies the
next use of a line, its pulse's end at the latest, starts another one, which takes it, off. When both die at once the
service manager is left, with ``postern door-off``.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.door.gpio import GpiodLines
from agent.door.keeper import MAX_MESSAGE_BYTES, OK
from agent.door.lines import Input, InputSpec, OutputLine, OutputSpec
from agent.errors import DeviceLostError

START_S: Final = 20.0  # to its first answer: a board that is starved takes long to start Python
ANSWER_S: Final = 2.0  # one that is well answers within a millisecond, and ends as quickly
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from agent.door.keeper import main; main()"


def command() -> list[str]:
    """What starts a keeper: this Python and its paths, and nothing that a site's start-up files would import."""
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, *sys.path]


class KeptLines:
    """Implements ``Lines``: buttons are this process's, output lines its keeper's. Thread-safe.

    The keeper is there while an output line is held. Its environment is empty, and it inherits two pipes and the log.
    """

    def __init__(self, start: Sequence[str] | None = None) -> None:
        """``start`` is the command of another keeper, as of a rig's."""
        self._start = start
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._held: set[int] = set()
        self._last_key = 0

    def open_input(self, spec: InputSpec) -> Input:
        return GpiodLines().open_input(spec)

    def open_key(self, device: Path, key: str) -> Input:
        return GpiodLines().open_key(device, key)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        with self._lock:
            self._last_key += 1
            key = self._last_key
            if self._process is None:
                self._process = _Process(command() if self._start is None else self._start)
            self._held.add(key)
            try:
                self._say(f"open {key} {spec.line} {int(spec.active_low)} {spec.longest_ms} {spec.chip}", START_S)
            except DeviceLostError:
                self._drop(key)
                raise
            return _Kept(self, key)

    def switch(self, key: int, *, on: bool) -> None:
        """Switch one line; raises DeviceLostError."""
        with self._lock:
            self._say(f"{'on' if on else 'off'} {key}", ANSWER_S)

    def close(self, key: int) -> None:
        """Switch one line off and let go of it; with the last one the keeper ends. Raises DeviceLostError."""
        with self._lock:
            if key in self._held:
                try:
                    self._say(f"close {key}", ANSWER_S)
                finally:
                    self._drop(key)

    def _drop(self, key: int) -> None:
        self._held.discard(key)
        if not self._held and self._process is not None:
            self._process.end()
            self._process = None

    def _say(self, message: str, within_s: float) -> None:
        if self._process is None:
            raise DeviceLostError("what held the line ended: it is taken again")
        try:
            answer = self._process.ask(message, within_s)
        except OSError as error:  # a TimeoutError is one
            switched_off = self._process.end()
            self._process = None
            self._held.clear()  # they are another keeper's from their next use on, and off
            if switched_off and message.startswith("close"):
                return
            raise DeviceLostError("what holds the output lines ended or hangs: it is started again") from error
        if answer != OK:
            raise DeviceLostError(answer)


class _Kept:
    def __init__(self, lines: KeptLines, key: int) -> None:
        self._lines, self._key = lines, key

    def set(self, *, on: bool) -> None:
        self._lines.switch(self._key, on=on)

    def close(self) -> None:
        self._lines.close(self._key)


class _Process:
    """A running keeper."""

    def __init__(self, words: Sequence[str]) -> None:
        files: list[int] = []
        try:
            for _ in range(2):
                files += os.pipe()
            told, self._told, self._answers, answers = files
            actions = [(os.POSIX_SPAWN_DUP2, told, 0), (os.POSIX_SPAWN_DUP2, answers, 1)]
            # No signal is held back in it, whatever is in this thread: some of them end it.
            self._pid = os.posix_spawn(words[0], list(words), {}, file_actions=actions, setsigmask=[])
        except OSError as error:
            for one in files:
                os.close(one)
            raise DeviceLostError(f"what holds the output lines cannot be started ({error.strerror})") from error
        os.close(told)
        os.close(answers)

    def ask(self, message: str, within_s: float) -> str:
        """The answer to one message. Raises OSError when there is none, TimeoutError when none comes in time."""
        os.write(self._told, os.fsencode(message) + b"\0")
        answer, deadline = b"", time.monotonic() + within_s
        while not answer.endswith(b"\0"):
            if not (more := self._read(deadline)):
                raise BrokenPipeError
            answer += more
            if len(answer) > MAX_MESSAGE_BYTES:
                raise BrokenPipeError
        return answer[:-1].decode(errors="replace")

    def end(self) -> bool:
        """Close the pipe, which ends it; one that hangs is killed. Whether it ended well, with everything off.

        Where children are nobody's (SIGCHLD is ignored, as whoever started the unit may have left it) it is not known.
        """
        os.close(self._told)
        try:
            deadline = time.monotonic() + ANSWER_S
            while self._read(deadline):  # an answer that came too late
                pass
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        os.close(self._answers)
        try:
            return os.waitpid(self._pid, 0)[1] == 0
        except ChildProcessError:
            return False

    def _read(self, deadline: float) -> bytes:
        poll = select.poll()  # takes a file of any number
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        return os.read(self._answers, MAX_MESSAGE_BYTES)
