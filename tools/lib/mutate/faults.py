# SPDX-License-Identifier: Apache-2.0
"""Wrong lines written by hand: faults.yaml, one after the other in a copy of the checkout."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import msgspec
import yaml

from tools.lib.mutate import reach
from tools.lib.mutate.mutants import WORK
from tools.lib.mutate.rooms import ROOT, answering, keep_like, room_of
from tools.lib.mutate.runs import Runs, Verdict

FILE = Path(__file__).with_name("faults.yaml")
TIMEOUT_S = 900.0  # of the tests of one fault; a unit that hangs is noticed by the timeout of its test


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
        self.write(checkout, content.replace(self.old, self.new))

    def take_out_of(self, checkout: Path) -> None:
        self.write(checkout, (ROOT / self.file).read_text())

    def write(self, checkout: Path, content: str) -> None:
        """Write the module, of which no byte code stays: it is told from older by seconds and length alone."""
        path = checkout / self.file
        path.write_text(content)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()

    def line(self) -> int:
        """Of the file as it is."""
        before, _, _ = (ROOT / self.file).read_text().partition(self.old)
        return before.count("\n") + 1

    def asked(self) -> list[str]:
        """The tests that should notice."""
        room = room_of(self.file)
        return list(self.tests) or (answering(room) if room else [])


class Tried(NamedTuple):
    """``by`` is the test that noticed; a fault is ``broken`` when that test fails without it as well."""

    name: str
    how: Verdict
    by: str | None


def read() -> list[Fault]:
    """All faults in the order of the file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # some hundred lines, in a tenth of the time
    return msgspec.convert(yaml.load(FILE.read_text(), loader), list[Fault])  # noqa: S506 - both are safe


def try_all(faults: Sequence[Fault], jobs: int) -> Iterator[Tried]:
    """Try each; in the order given, ``jobs`` at a time, each in a copy of its own."""
    asked = list(dict.fromkeys(test for fault in faults for test in fault.asked()))
    with ExitStack() as open_ends, ThreadPoolExecutor(jobs) as pool:
        folder = Path(open_ends.enter_context(tempfile.TemporaryDirectory(prefix="postern-mutate-")))
        free: SimpleQueue[_Copy] = SimpleQueue()
        for number in range(jobs):
            keep_like(folder / str(number))
            free.put(
                _Copy(folder / str(number), open_ends.enter_context(Runs(folder / str(number), asked, whole=False)))
            )

        def attempt(fault: Fault) -> Tried:
            copy = free.get()
            try:
                return copy.about(fault)
            finally:
                free.put(copy)

        yield from pool.map(attempt, faults)


class _Copy:
    """A copy of the checkout, and what runs tests in it."""

    def __init__(self, checkout: Path, runs: Runs) -> None:
        self._checkout, self._runs = checkout, runs

    def about(self, fault: Fault) -> Tried:
        """Try ``fault`` by the tests that reach its function, where that is known, and then by all that are asked."""
        room = room_of(fault.file)
        known = reach.read(WORK / room) if room else reach.Reach({}, {})
        function = reach.function_at(fault.file, (ROOT / fault.file).read_text(), fault.line()) if room else None
        reaching = [test for test in known.tests_of(function or "") if test.split("::")[0] in fault.asked()]
        fault.put_into(self._checkout)
        try:
            ended = self._runs.run(reaching, known.limit_s(reaching)) if reaching else None
            if ended is None or ended.how in ("passed", "broken"):  # broken: a test that is gone
                ended = self._runs.run(fault.asked(), TIMEOUT_S)
        finally:
            fault.take_out_of(self._checkout)
        return Tried(fault.name, self._runs.verdict(ended), ended.by)
