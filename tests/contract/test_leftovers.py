# SPDX-License-Identifier: Apache-2.0
"""What a test leaves open fails that test's own file: once a pure test of rounding failed by another one's socket."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAVES = """
import socket


class Holder:  # a ring, which only the collector finds
    def __init__(self):
        self.me, self.socket = self, socket.socket()
"""
FAILS = """

def test_that_fails():
    Holder()
    kept = Holder()
    assert kept is None
"""
FORGETS = """

def test_that_forgets():
    Holder()
"""
PURE = """
import gc


def test_of_somebody_else():
    gc.collect()
"""


def failed(folder: Path, first: str) -> set[str]:
    """Files with a failure or an error, where somebody else's test follows."""
    (folder / "test_a.py").write_text(LEAVES + first)
    (folder / "test_b.py").write_text(PURE)
    words = ("-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, f"--rootdir={folder}", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return set(re.findall(r"^(?:FAILED|ERROR) \S*(test_[ab]\.py)", done.stdout, re.MULTILINE))


def test_what_a_failed_test_left_open_fails_no_other(tmp_path: Path) -> None:
    assert failed(tmp_path, FAILS) == {"test_a.py"}


def test_what_a_test_forgot_to_close_fails_its_own_file(tmp_path: Path) -> None:
    assert failed(tmp_path, FORGETS) == {"test_a.py"}
