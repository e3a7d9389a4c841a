# SPDX-License-Identifier: Apache-2.0
"""The wrong lines that mutmut makes of a room's code, all or a sample, against the tests of the room.

mutmut makes them, and finds which tests reach which function. Each is tried by the tests that reach its function, the
quickest first; what no test was seen to reach, by all of the room in a process that imports the program anew, for what
happens at an import or in a program that a test starts. What was tried is kept in ``out/mutate`` for as long as nothing
of the checkout changes.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import msgspec

from tools.lib.mutate import equivalent, reach
from tools.lib.mutate.rooms import ROOT, answering, keep_like, modules_of, starting
from tools.lib.mutate.runs import Runs, Verdict

WORK = ROOT / "out/mutate"
BESIDE = ("models", "deploy", "tools", ".ci", ".github", "README.md", "LICENSE", ".gitignore")  # what tests look at
STATUS = re.compile(r"^\s+(\S+__mutmut_\d+): ", re.MULTILINE)
STARTED_S = 600.0  # of a file of tests that start programs, which nobody measured
NONE = "agent.no.such.mutant"  # has mutmut make its mutants and learn which test reaches which, and try none


class Tried(msgspec.Struct, frozen=True):
    """``by`` is the test that noticed; a mutant is ``broken`` when that test fails without it as well."""

    name: str
    how: Verdict
    by: str | None


class Made(NamedTuple):
    """``folder`` is where mutmut ran; ``mark`` is another where anything of the checkout changed."""

    room: str
    folder: Path
    mark: str
    names: list[str]

    def drawn(self, sample: int | None, seed: int) -> list[str]:
        """A uniformly random sample, in a random order: what was tried until an interruption is one as well."""
        return random.Random(seed).sample(self.names, min(sample or len(self.names), len(self.names)))

    def why_none_could_notice(self, name: str) -> str | None:
        """The reason that equivalent.py gives, where the mutant changes nothing."""
        return equivalent.why(name.rpartition(".")[0].replace(".", "/") + ".py", self.diff(name))

    def diff(self, name: str) -> str:
        """The lines that ``name`` takes and puts."""
        shown = _mutmut(self.folder, "show", name).split("\n")
        return "\n".join(line for line in shown if line[:1] in "+-" and line[:3] not in ("+++", "---"))


def make(room: str) -> Made:
    """Have mutmut make the mutants of ``room``; RuntimeError with its own words when the tests do not pass."""
    folder = WORK / room
    mark = keep_like(folder, made_below="mutants")
    made_of = folder / "made-of"
    if not made_of.exists() or made_of.read_text() != mark:
        (folder / "setup.cfg").write_text(_settings(room))
        _mutmut(folder, "run", "--max-children", "1", NONE)
    names = sorted(STATUS.findall(_mutmut(folder, "results", "--all", "true")))
    if not names or not reach.read(folder).duration_by_test:
        raise RuntimeError(f"mutmut made no mutant of {room}: {_last_words(folder)}")
    made_of.write_text(mark)
    return Made(room, folder, mark, names)


def try_each(made: Made, names: list[str], jobs: int) -> Iterator[Tried]:
    """Try each, in the order given; what was tried before in the same checkout is not tried again."""
    store = made.folder / f"tried-{made.mark[:16]}.jsonl"
    lines = store.read_text().splitlines() if store.exists() else []
    known = {tried.name: tried for tried in (msgspec.json.decode(line, type=Tried) for line in lines)}
    with ExitStack() as open_ends, ThreadPoolExecutor(jobs) as pool:
        free: SimpleQueue[_Asked] = SimpleQueue()
        for _ in range(jobs if any(name not in known for name in names) else 0):
            free.put(open_ends.enter_context(_Asked(made)))

        def attempt(name: str) -> Tried:
            if name in known:
                return known[name]
            asked = free.get()
            try:
                return asked.about(name)
            finally:
                free.put(asked)

        for tried in pool.map(attempt, names):
            if tried.name not in known:
                with store.open("a") as kept:
                    kept.write(msgspec.json.encode(tried).decode() + "\n")
            yield tried


class _Asked(ExitStack):
    """The processes that try mutants, one at a time."""

    def __init__(self, made: Made) -> None:
        super().__init__()
        self._reach = reach.read(made.folder)
        self._made = made
        self._warm = self._start(whole=True)
        self._anew: Runs | None = None

    def about(self, name: str) -> Tried:
        reaching = self._reach.tests_of(name.rpartition("__mutmut_")[0])
        runs, tests, limit_s = self._warm, reaching, self._reach.limit_s(reaching)
        if not reaching:
            self._anew = runs = self._anew or self._start(whole=False)
            # Nothing in process reaches it: the first test sees what goes wrong at an import, a program the rest.
            first, *others = self._reach.all_tests()
            tests = [first, *starting(self._made.room), *others]
            limit_s = self._reach.limit_s(tests) + STARTED_S * len(starting(self._made.room))
        ended = runs.run(tests, limit_s, {"MUTANT_UNDER_TEST": name})
        return Tried(name, runs.verdict(ended), ended.by)

    def _start(self, *, whole: bool) -> Runs:
        return self.enter_context(Runs(self._made.folder / "mutants", answering(self._made.room), whole=whole))


def _settings(room: str) -> str:
    """For setup.cfg, since what is copied stays as it is."""
    # From tests that start programs mutmut learns of nobody's reach.
    selected = [test for test in answering(room) if test not in starting(room)]
    lists = {
        "source_paths": ["agent"],
        "only_mutate": modules_of(room),
        "also_copy": BESIDE,
        "pytest_add_cli_args": ["-p", "no:xdist", "--timeout=600"],  # mutants and a busy machine make tests slow
        "pytest_add_cli_args_test_selection": selected,
    }
    return "[mutmut]\n" + "".join(f"{name} =\n  " + "\n  ".join(lines) + "\n" for name, lines in lists.items())


def _mutmut(folder: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": ""}  # the copy's own program, by the folder that mutmut runs in
    with (folder / "mutmut.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
        log.write(done.stdout)
    return done.stdout


def _last_words(folder: Path) -> str:
    lines = (folder / "mutmut.log").read_text().split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-400:]
