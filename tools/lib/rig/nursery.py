# SPDX-License-Identifier: Apache-2.0
"""Workers that are forked to be killed, and whoever kills them: neither waits for the other without end.

A nursery is a process that forks a worker for each line it reads. It has a session of its own, so that an interrupt
at a terminal reaches only whoever kills; that ends the nursery with everything it began. Where the killer itself is
killed the pipe closes, and the nursery ends its worker and itself.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from tools.lib.demo.site import ROOT, CommandError

WORD_S = 90.0  # to the next word; of that a keeper alone has 20 s to begin (agent.door.kept.START_S)
STARVED = 75  # exit status of a worker that could not begin for want of time (sysexits.h: try again)
KILLED, BY_ITSELF, TOO_LATE = "killed", "ended by itself", "starved"  # how a worker ended
ENDS = (KILLED, BY_ITSELF, TOO_LATE)
READ_BYTES = 65536


class Nursery:
    """A nursery of the program ``words``, seen from whoever kills; leaving the block ends all of it."""

    def __init__(self, *words: str | Path) -> None:
        hears, self._told = os.pipe()
        self._said, says = os.pipe()
        self._heard = b""
        command = [sys.executable, *map(str, words)]
        try:
            self._process = subprocess.Popen(command, stdin=hears, stdout=says, cwd=ROOT, start_new_session=True)
        finally:
            os.close(hears)
            os.close(says)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        os.close(self._told)
        os.close(self._said)
        self._process.wait()

    def birth(self, word: str) -> None:
        """Have one worker forked, which is told ``word``. Raises CommandError when the nursery is gone."""
        try:
            os.write(self._told, f"{word}\n".encode())
        except BrokenPipeError as error:
            raise self._gone() from error

    def hear(self) -> str:
        """The next line of the nursery or its worker. Raises CommandError when there is none within ``WORD_S``."""
        deadline = time.monotonic() + WORD_S
        while b"\n" not in self._heard:
            if not select.select([self._said], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise CommandError(
                    f"a worker said nothing for {WORD_S:.0f} s: run it again when this machine does less"
                )
            if not (more := os.read(self._said, READ_BYTES)):
                raise self._gone()
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def _gone(self) -> CommandError:
        return CommandError("the nursery ended by itself: its errors stand above")


def say(line: str) -> None:
    """One line to whoever kills; a pipe takes it whole or not at all."""
    os.write(1, line.encode() + b"\n")


def nurse(live: Callable[[str], None]) -> None:
    """Fork a worker for each line of standard input, ``live`` with it; say ``born PID``, then how it ended (``ENDS``).

    Ends with its worker when the input does.
    """
    told = os.fdopen(0, "rb", buffering=0, closefd=False)
    with suppress(BrokenPipeError):  # whoever listened is gone: so is this, and so is the worker in which it is raised
        while line := told.readline():
            worker = os.fork()
            if worker == 0:
                live(line.decode().strip())
                return
            say(f"born {worker}")
            say(_end_of(worker))


def _end_of(worker: int) -> str:
    watched = os.pidfd_open(worker)
    try:
        if 0 in select.select([0, watched], [], [])[0]:  # nobody speaks to a nursery with a worker: it was closed
            os.kill(worker, signal.SIGKILL)
    finally:
        os.close(watched)
    _, status = os.waitpid(worker, 0)
    if os.WIFSIGNALED(status):
        return KILLED
    return TOO_LATE if os.WEXITSTATUS(status) == STARVED else BY_ITSELF
