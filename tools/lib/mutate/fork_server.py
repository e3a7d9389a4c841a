# SPDX-License-Identifier: Apache-2.0
"""A process that imports once what tests import, and forks for each run of them: runs.py starts it and speaks to it.

It runs as a script in a copy of the checkout, and imports nothing of tools/: what the copy imports is the copy's own.
Orders and answers are lines of JSON. The first order says what to import: ``{"collect": TEST FILES, "all": BOOL}``,
everything, or only what is not of the checkout. Each other is a run: ``{"tests": […], "environment": {…},
"limit_s": 60.0}``, answered by how it ended, which test failed first, and the last of what was said.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

# A test may take longer than in a run of its own: the machine is busy, and a run has its limit.
QUIETLY = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain", "--tb=short", "--timeout=300")
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # of pytest; interrupted is what it is by a file that cannot be imported
OURS = ("agent", "tests", "tools", "__main__", "conftest")
TURN_S = 0.02  # between two looks at a run
LAST_WORDS = 400  # characters
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


class Watch:
    """Keeps which test failed first, and whether because it took too long."""

    def __init__(self) -> None:
        self.first: str | None = None
        self.late = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed and self.first is None:
            self.first = report.nodeid
            self.late = "Failed: Timeout" in report.longreprtext


def main() -> None:
    """Answer orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a test prints is no answer
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # who is left by a run that was killed comes to us
    first = json.loads(sys.stdin.readline())
    _import_all(first["collect"]) if first["all"] else _import_foreign(first["collect"])
    answers.write("{}\n")
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        answers.write(json.dumps(_run(order["tests"], order["environment"], order["limit_s"])) + "\n")


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _import_all(tests: Iterable[str]) -> None:
    pytest.main(["--collect-only", *QUIETLY, *tests])


def _import_foreign(tests: Iterable[str]) -> None:
    """Import what ``tests`` need, but for the checkout's own, of which the next run may have another."""
    with tempfile.NamedTemporaryFile("r") as names:
        pid = os.fork()
        if pid == 0:
            _import_all(tests)
            own = str(Path.cwd())
            Path(names.name).write_text("\n".join(name for name in sys.modules if _foreign(name, own)))
            os._exit(0)
        os.waitpid(pid, 0)
        for name in names.read().split():
            with contextlib.suppress(Exception):  # whoever needs it imports it again, and says what is wrong
                importlib.import_module(name)


def _foreign(name: str, own: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None) or ""
    return name.split(".", maxsplit=1)[0] not in OURS and not file.startswith(own)


def _run(tests: list[str], environment: dict[str, str], limit_s: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        told, said = Path(folder, "told"), Path(folder, "said")
        pid = os.fork()
        if pid == 0:
            _be_a_run(tests, environment, told, said)
        end = time.monotonic() + limit_s
        while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(TURN_S)
        late = status == (0, 0)
        if late:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        _end_who_is_left()
        last_words = said.read_text(errors="replace")[-LAST_WORDS:] if said.exists() else ""
        if late:
            return {"ended": "timeout", "by": None, "said": last_words}
        if not told.exists():  # killed by a signal, or ended in the middle of a test
            return {"ended": "failed", "by": None, "said": last_words}
        answer: dict[str, Any] = json.loads(told.read_text())
        return answer | {"said": last_words}


def _be_a_run(tests: list[str], environment: dict[str, str], told: Path, said: Path) -> None:
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    watch = Watch()
    status = pytest.main(["-x", *QUIETLY, *tests], plugins=[watch])
    sys.stdout.flush()
    ended = "passed" if status == PASSED else "broken"
    if status in (FAILED, INTERRUPTED) and watch.first is not None:
        ended = "timeout" if watch.late else "failed"
    told.write_text(json.dumps({"ended": ended, "by": watch.first}))
    os._exit(0)


def _end_who_is_left() -> None:
    """Kill what a run started and did not end: this process is who its orphans belong to."""
    for task in Path("/proc/self/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
