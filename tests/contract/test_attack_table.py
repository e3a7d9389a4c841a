# SPDX-License-Identifier: Apache-2.0
"""The table of attacks in tests/README.md names tests that are there, and each attack has one of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.lib.mutate.faults import read

TESTS = Path(__file__).parents[1]
SECTION = "## Each attack that once succeeded"
SEEN = 33  # attacks of 2026-11-26 and -27; a row that goes takes its promise with it


def rows() -> dict[str, list[tuple[str, str]]]:
    """What was done, and the (file, function) of each test."""
    section = (TESTS / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    found: dict[str, list[tuple[str, str]]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in {"was done", "---"}:
            continue
        file = ""
        found[cells[0]] = []
        for name in re.findall("`([^`]+)`", cells[1]):
            if name.endswith(".py"):
                file = name
            else:
                found[cells[0]].append((file, name))
    return found


@pytest.mark.parametrize("attack", rows())
def test_each_attack_has_a_test_that_is_there(attack: str) -> None:
    named = rows()[attack]
    assert any(file.startswith(("attack/", "fault/")) for file, _ in named)
    for file, name in named:
        module = ast.parse((TESTS / file).read_text())
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert name.startswith("test_")
        assert name in functions, f"{file} has no {name}"


def test_each_attack_has_a_wrong_line_that_takes_out_what_stops_it() -> None:
    known = {fault.name for fault in read()}
    lines = [line for line in (TESTS / "README.md").read_text().partition(SECTION)[2].splitlines() if line[:2] == "| "]
    for line in lines[1:]:
        named = re.findall("`([^`]+)`", line.strip("|").split("|")[2])
        assert named
        assert set(named) <= known, line


def test_no_attack_is_left_out() -> None:
    assert len(rows()) == SEEN
