# SPDX-License-Identifier: Apache-2.0
"""Lives that are ended by kill -9: a worker that forks on each line it reads, and who starts and kills its children.

A fork is there within a millisecond, where a new interpreter would take half a second to its first import.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.simulators.broker import PATIENCE_S

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts children of the worker ``module`` and kills them."""

    def __init__(self, module: str, *words: str) -> None:
        command = [sys.executable, "-m", module, *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._child = 0

    def start(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._child = int(self._process.stdout.readline())

    def kill(self) -> None:
        assert self._process.stdout
        os.kill(self._child, signal.SIGKILL)
        assert self._process.stdout.readline() == "gone\n"

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._child:  # 0 would be this very process and all its kin
                os.kill(self._child, signal.SIGKILL)
        self._process.communicate(timeout=2 * PATIENCE_S)  # it may still be importing


def fork_on_each_line(live: Callable[[], None], failed: Path) -> None:
    """The worker: say each child's number, and when it is gone; what a child raises is written to ``failed``."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                live()
            except Exception as error:  # noqa: BLE001  # whatever it is, the test has to hear of it
                with failed.open("a") as told:
                    print(f"{type(error).__name__}: {error}", file=told)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        if status != signal.SIGKILL:
            with failed.open("a") as told:
                print(f"one ended by itself with status {os.waitstatus_to_exitcode(status)}", file=told)
        print("gone", flush=True)
