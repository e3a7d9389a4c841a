# SPDX-License-Identifier: Apache-2.0
"""A unit as a process of its own: start, stop, kill -9, fill its disk, look at its memory and at what it signed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.outbox.numbers import Head
from agent.protocol.event import FIRST_PREV

ROOT = Path(__file__).parents[3]
STOP_TIMEOUT_S = 20.0  # a clean stop takes two seconds; the rest is for a busy machine
MAX_LOG_LINES = 2000  # kept of what a unit logs
TORN_BYTES = 1500  # of a frame that was not finished when the power failed: less than one page of 4096
POSTERN = (sys.executable, "-m", "agent")  # this checkout; an installed unit is /usr/bin/postern
_KIB = re.compile(r"^(VmRSS|RssAnon|Threads):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds at one moment: KiB of resident and of private memory, threads, open files.

    ``together_kib`` is resident memory of it and its children; what they share is counted for each.
    """

    resident_kib: int
    private_kib: int
    threads: int
    files: int
    together_kib: int


def usage_of(pid: int) -> Usage:
    """Look at a process; OSError when it has ended."""
    process = Path("/proc") / str(pid)
    facts = {name: int(value) for name, value in _KIB.findall((process / "status").read_text())}
    files = len(list((process / "fd").iterdir()))
    family = [process, *(process.parent / one for one in (process / f"task/{pid}/children").read_text().split())]
    together = 0
    for one in family:
        with suppress(OSError):  # a child that has just ended
            together += sum(int(kib) for name, kib in _KIB.findall((one / "status").read_text()) if name == "VmRSS")
    return Usage(facts.get("VmRSS", 0), facts.get("RssAnon", 0), facts.get("Threads", 0), files, together)


def head_of(outbox: Path) -> Head:
    """Read the end of the chain from the file of a stopped unit.

    From a copy: what recovery there is to do stays for the unit's own next start.
    """
    if not outbox.exists():
        return Head(0, FIRST_PREV)
    with tempfile.TemporaryDirectory(prefix="postern-head-") as folder:
        for name in (outbox.name, f"{outbox.name}-wal"):
            if (source := outbox.with_name(name)).exists():
                shutil.copy(source, folder)
        with closing(sqlite3.connect(Path(folder) / outbox.name)) as database:
            found = database.execute("SELECT seq, digest FROM head").fetchone()
            return Head(*found) if found else Head(0, FIRST_PREV)


def tear(outbox: Path, chance: bytes) -> None:
    """Append to the log part of a frame that never was: SQLite writes there, and a power cut may leave any of it."""
    with outbox.with_name(f"{outbox.name}-wal").open("ab") as log:
        log.write(chance[:TORN_BYTES])


class UnitProcess:
    """``program run -c config``; its log is kept in memory, so that a full disk does not reach it."""

    def __init__(self, config: Path, *, outbox: Path, program: tuple[str, ...] = POSTERN) -> None:
        self._command = [*program, "run", "-c", str(config)]
        self._outbox = outbox
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self.log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self.status: int | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), name="unit-log", daemon=True)
        self._reader.start()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, as the kernel does when memory runs out; the exit status."""
        return self._end(signal.SIGKILL)

    def reload(self) -> None:
        self._signal(signal.SIGHUP)

    def wait(self, timeout_s: float) -> int | None:
        """Exit status, or None when it still runs after ``timeout_s``."""
        if self._process is None:
            return None
        try:
            self.status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        if self._reader is not None:
            self._reader.join(STOP_TIMEOUT_S)
        return self.status

    def fill_disk(self, *, full: bool) -> None:
        """Let every further write to a file fail, or end that (RLIMIT_FSIZE; Python ignores the signal with it)."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))

    def usage(self) -> Usage | None:
        """What it holds now, None when it does not run."""
        if self._process is None or not self.running:
            return None
        try:
            return usage_of(self._process.pid)
        except OSError:
            return None

    def head(self) -> Head:
        """The newest event that the unit signed, which commits to every event before it; only while it is stopped."""
        return head_of(self._outbox)

    def tear(self, chance: bytes) -> None:
        """Leave behind what a power cut in the middle of the next write leaves."""
        tear(self._outbox, chance)

    def _end(self, how: signal.Signals) -> int:
        self._signal(how)
        status = self.wait(STOP_TIMEOUT_S)
        if status is None:
            self._signal(signal.SIGKILL)
            status = self.wait(STOP_TIMEOUT_S)
        return -signal.SIGKILL if status is None else status

    def _signal(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.log.append(line.rstrip("\n"))
