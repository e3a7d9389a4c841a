# SPDX-License-Identifier: Apache-2.0
"""The wrong lines that mutmut makes of a room's code, all or a sample, against the tests of the room."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tools.lib.mutate.rooms import answering, copy_to, modules_of

BESIDE = ("models", "deploy", "tools", ".ci", ".github", "README.md", "LICENSE", ".gitignore")  # what tests look at
STATUS = re.compile(r"^\s+(\S+__mutmut_\d+): (.+)$", re.MULTILINE)
NONE = "agent.no.such.mutant"  # has mutmut make its mutants and learn which test reaches which, and try none
NOTICED = ("killed", "timeout", "segfault", "caught by type check")


def measure(room: str, *, sample: int | None, jobs: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Try the mutants of ``room``; how many ended how, and the names of those that no test noticed.

    RuntimeError with mutmut's own words when the tests do not pass without a mutant.
    """
    with tempfile.TemporaryDirectory(prefix="postern-mutate-") as folder:
        checkout = Path(folder)
        copy_to(checkout)
        with (checkout / "pyproject.toml").open("a") as project:
            project.write(_settings(room))
        _mutmut(checkout, "run", "--max-children", str(jobs), NONE)
        names = list(_statuses(checkout))
        if not names:
            raise RuntimeError(f"mutmut made no mutant of {room}: {_last_words(checkout)}")
        chosen = sorted(random.Random(seed).sample(names, min(sample or len(names), len(names))))
        _mutmut(checkout, "run", "--max-children", str(jobs), *chosen)
        found = {name: status for name, status in _statuses(checkout).items() if name in set(chosen)}
    return Counter(found.values()), sorted(name for name, status in found.items() if status not in NOTICED)


def _settings(room: str) -> str:
    lists = {
        "source_paths": ["agent"],
        "only_mutate": modules_of(room),
        "also_copy": list(BESIDE),
        "pytest_add_cli_args": ["-p", "no:xdist"],
        "pytest_add_cli_args_test_selection": answering(room),
    }
    return "\n[tool.mutmut]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in lists.items())


def _mutmut(checkout: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": ""}  # the copy's own program, by the folder that mutmut runs in
    with (checkout / "mutmut.log").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *words],
            cwd=checkout,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
        log.write(done.stdout)
    return done.stdout


def _statuses(checkout: Path) -> dict[str, str]:
    return dict(STATUS.findall(_mutmut(checkout, "results", "--all", "true")))


def _last_words(checkout: Path) -> str:
    lines = (checkout / "mutmut.log").read_text().split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-400:]
