# SPDX-License-Identifier: Apache-2.0
"""Wrong lines written by hand: faults.yaml, one after the other in a copy of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import msgspec
import yaml

from tools.lib.mutate.rooms import ROOT, answering, copy_to, room_of

FILE = Path(__file__).with_name("faults.yaml")
TIMEOUT_S = 900.0  # of the tests of one fault; a unit that hangs is noticed by the timeout of its test
PASSED, FAILED = 0, 1  # of pytest

Outcome = Literal["noticed", "survived", "broken"]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``old`` stands exactly once in ``file``; ``tests`` are the room's unless they are named."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    def put_into(self, checkout: Path) -> None:
        """Write the wrong line; ValueError when the right one is not there once."""
        path = checkout / self.file
        content = path.read_text()
        if content.count(self.old) != 1:
            raise ValueError(f"{self.name}: the line is not in {self.file} exactly once: correct faults.yaml")
        path.write_text(content.replace(self.old, self.new))

    def take_out_of(self, checkout: Path) -> None:
        (checkout / self.file).write_text((ROOT / self.file).read_text())

    def asked(self) -> list[str]:
        """The tests that should notice."""
        return list(self.tests) or answering(room_of(self.file))


def read() -> list[Fault]:
    """All faults in the order of the file."""
    return msgspec.convert(yaml.safe_load(FILE.read_text()), list[Fault])


def try_all(faults: Sequence[Fault], jobs: int) -> Iterator[tuple[Fault, Outcome]]:
    """Try each; in the order given, ``jobs`` at a time, each in a copy of its own."""
    with tempfile.TemporaryDirectory(prefix="postern-mutate-") as folder:
        free: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            copy_to(Path(folder, str(number)))
            free.put(Path(folder, str(number)))

        def attempt(fault: Fault) -> Outcome:
            checkout = free.get()
            try:
                fault.put_into(checkout)
                return run_tests(checkout, fault.asked())
            finally:
                fault.take_out_of(checkout)
                free.put(checkout)

        with ThreadPoolExecutor(jobs) as pool:
            yield from zip(faults, pool.map(attempt, faults), strict=True)


def run_tests(checkout: Path, tests: Sequence[str]) -> Outcome:
    """Run ``tests`` in ``checkout`` until the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return "noticed"
    if done.returncode == PASSED:
        return "survived"
    return "noticed" if done.returncode == FAILED else "broken"
