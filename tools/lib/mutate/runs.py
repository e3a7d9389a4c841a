# SPDX-License-Identifier: Apache-2.0
"""Runs of tests in a copy of the checkout, each in a fork of a process that has imported what they need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

SERVER = Path(__file__).with_name("fork_server.py")
CONTROL_S = 300.0  # of the test that noticed, without what it noticed

Verdict = Literal["noticed", "timeout", "survived", "broken"]


class Ended(NamedTuple):
    """How a run ended; ``by`` is the test that failed first, ``said`` the last of what was printed."""

    how: Literal["passed", "failed", "timeout", "broken"]
    by: str | None
    said: str


class Runs:
    """One process that forks; RuntimeError where it ends unasked.

    ``whole`` imports the checkout's own modules before it forks too: quicker, where a run changes none of them.
    """

    def __init__(self, checkout: Path, tests: Sequence[str], *, whole: bool) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout), "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(SERVER)],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask({"collect": list(tests), "all": whole})
        self._passing: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()

    def run(self, tests: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None) -> Ended:
        """Run ``tests`` in their order until the first that fails; after ``limit_s`` it is a timeout."""
        order = {"tests": list(tests), "environment": dict(environment or {}), "limit_s": limit_s}
        answer = self._ask(order)
        return Ended(answer["ended"], answer["by"], answer["said"])

    def verdict(self, ended: Ended) -> Verdict:
        """What a run with something wrong in it says, once that is taken out: a test that fails still is broken."""
        if ended.how in ("passed", "broken"):
            return "survived" if ended.how == "passed" else "broken"
        if ended.by is not None and ended.by not in self._passing:
            if self.run([ended.by], CONTROL_S).how != "passed":
                return "broken"
            self._passing.add(ended.by)
        return "timeout" if ended.how == "timeout" else "noticed"

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        asked, answers = self._process.stdin, self._process.stdout
        if asked is None or answers is None:
            raise RuntimeError("the process that runs the tests has no ends")
        asked.write(json.dumps(order) + "\n")
        asked.flush()
        answer: dict[str, Any] = json.loads(answers.readline() or "null")
        if answer is None:
            raise RuntimeError("the process that runs the tests ended: run the command again")
        return answer
