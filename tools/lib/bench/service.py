# SPDX-License-Identifier: Apache-2.0
"""One run of the real service as another process, seen from outside: processor time, memory, start-up, threads.

The service says READY to NOTIFY_SOCKET on its first frame, as it does to systemd. What came before is start-up, what
comes after is its pace.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.lib.demo.site import ROOT, CommandError

START_TIMEOUT_S = 120.0  # on a machine that does much else
RUN_TIMEOUT_S = 900.0
SAMPLE_S = 0.1
_FRAMES = re.compile(r"(\d+) frames in [0-9.]+ s")
_KIB = re.compile(r"^(VmRSS|RssAnon|Threads):\s+(\d+)", re.MULTILINE)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """Times in seconds; ``pace_`` ones are those of all frames after the first. Memory in MiB."""

    frames: int
    start_cpu_s: float
    start_s: float
    pace_cpu_s: float
    pace_s: float
    resident_mib: float
    private_mib: float
    threads: int
    files: int


@dataclass(slots=True)
class Seen:
    """The most that was seen of a process at one time."""

    resident_kib: int = 0
    private_kib: int = 0
    threads: int = 0
    files: int = 0
    samples: int = field(default=0)

    def look(self, pid: int) -> None:
        process = Path("/proc") / str(pid)
        facts = {name: int(value) for name, value in _KIB.findall((process / "status").read_text())}
        self.resident_kib = max(self.resident_kib, facts.get("VmRSS", 0))
        self.private_kib = max(self.private_kib, facts.get("RssAnon", 0))
        self.threads = max(self.threads, facts.get("Threads", 0))
        self.files = max(self.files, len(list((process / "fd").iterdir())))
        self.samples += 1


def compile_program() -> None:
    """Compile ours and the peers' loop, as the package does at its installation and pip does with what it installs.

    A start of uncompiled modules would measure Python's compiler, wherever it may not keep what it compiled.
    """
    folders = [str(ROOT / name) for name in ("agent", "tools/lib")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """One process that never rests, until the context is left."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run_service(
    config: Path, *, seconds: float | None = None, settle_s: float = 0.0, program: tuple[str, ...] = ("-m", "agent")
) -> Run:
    """Run ``postern run`` to the end of its video, or for ``seconds`` after its first frame and then SIGTERM it.

    Its pace is measured from ``settle_s`` after its first frame, when it has connected and put away what started it.
    """
    with tempfile.TemporaryDirectory(prefix="postern-notify-") as folder:
        address = str(Path(folder) / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (config.parent / "run.log").open("w+") as log:
            manager.bind(address)
            manager.settimeout(START_TIMEOUT_S)
            environment = {**os.environ, "NOTIFY_SOCKET": address}
            began = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, *program, "run", "-c", str(config)], stderr=log, env=environment
            )
            try:
                return _observe(process, manager, log.name, began, (seconds, settle_s))
            finally:
                process.kill()


def _observe(
    process: subprocess.Popen[bytes], manager: socket.socket, log: str, began: float, lasts: tuple[float | None, float]
) -> Run:
    if not _wait_for(manager, b"READY=1", process):
        raise CommandError(f"the service did not start: {_tail(log)}")
    ready, start_cpu_s = time.monotonic(), _cpu_s(process.pid)
    seconds, settle_s = lasts
    time.sleep(settle_s)
    settled, settled_cpu_s = time.monotonic(), _cpu_s(process.pid)
    with watched(process.pid) as seen:
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGTERM)
        if not _wait_for(manager, b"STOPPING=1", process):
            raise CommandError(f"the service ended by itself: {_tail(log)}")
        # Up to here: what Python takes to end is no frame's share.
        stopped, cpu_s = time.monotonic(), _cpu_s(process.pid)
    process.wait()
    count = _FRAMES.search(Path(log).read_text())
    if process.returncode != 0 or count is None or not seen.samples:
        raise CommandError(f"the service ended with status {process.returncode}: {_tail(log)}")
    return Run(
        frames=int(count[1]) - 1,
        start_cpu_s=start_cpu_s,
        start_s=ready - began,
        pace_cpu_s=cpu_s - settled_cpu_s,
        pace_s=stopped - settled,
        resident_mib=seen.resident_kib / 1024,
        private_mib=seen.private_kib / 1024,
        threads=seen.threads,
        files=seen.files,
    )


def _wait_for(manager: socket.socket, word: bytes, process: subprocess.Popen[bytes]) -> bool:
    """Wait for a message of the service; False when it ended without."""
    manager.settimeout(SAMPLE_S * 5)
    deadline = time.monotonic() + (START_TIMEOUT_S if word.startswith(b"READY") else RUN_TIMEOUT_S)
    while time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if word in manager.recv(4096):
                return True
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
    raise CommandError("the service did not do its work in time; the machine is too busy to measure anything")


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Seen]:
    """Look at a process again and again from a thread until the context is left."""
    seen, ended = Seen(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(pid, seen, ended), daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join(5)


def _watch(pid: int, seen: Seen, ended: threading.Event) -> None:
    with contextlib.suppress(OSError):  # it ended meanwhile
        while not ended.is_set():
            seen.look(pid)
            ended.wait(SAMPLE_S)


def _cpu_s(pid: int) -> float:
    """Processor time of a process; the name in the second field may hold spaces, what follows it not (proc(5))."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _tail(log: str) -> str:
    return Path(log).read_text().strip()[-800:]
