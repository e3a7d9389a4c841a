# SPDX-License-Identifier: Apache-2.0
"""The tables of attacks and of cases in tests/README.md name tests that are there, and each row has one of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.lib.mutate.faults import read

TESTS = Path(__file__).parents[1]
ATTACKS = "## Each attack that once succeeded"
CASES = "## Each case of others, and each wrong move"
SEEN = {ATTACKS: 33, CASES: 52}  # a row that goes takes its promise with it
COLUMN = {ATTACKS: 1, CASES: 2}  # where the tests stand


def rows(section: str) -> dict[str, list[tuple[str, str]]]:
    """What was done, and the (file, function) of each test."""
    text = (TESTS / "README.md").read_text().partition(section)[2].partition("\n## ")[0]
    found: dict[str, list[tuple[str, str]]] = {}
    for line in [line for line in text.splitlines() if line.startswith("|")][2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        file = ""
        found[cells[0]] = []
        for name in re.findall("`([^`]+)`", cells[COLUMN[section]]):
            if name.endswith(".py"):
                file = name
            else:
                found[cells[0]].append((file, name))
    return found


@pytest.mark.parametrize("attack", rows(ATTACKS))
def test_each_attack_has_a_test_that_is_there(attack: str) -> None:
    named = rows(ATTACKS)[attack]
    assert any(file.startswith(("attack/", "fault/")) for file, _ in named)
    look_up(named)


@pytest.mark.parametrize("case", rows(CASES))
def test_each_case_and_wrong_move_has_a_test_that_is_there(case: str) -> None:
    named = rows(CASES)[case]
    assert named
    look_up(named)


def look_up(named: list[tuple[str, str]]) -> None:
    for file, name in named:
        module = ast.parse((TESTS / file).read_text())
        functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        assert name.startswith("test_")
        assert name in functions, f"{file} has no {name}"


def test_each_attack_has_a_wrong_line_that_takes_out_what_stops_it() -> None:
    known = {fault.name for fault in read()}
    lines = [line for line in (TESTS / "README.md").read_text().partition(ATTACKS)[2].splitlines() if line[:2] == "| "]
    for line in lines[1:]:
        named = re.findall("`([^`]+)`", line.strip("|").split("|")[2])
        assert named
        assert set(named) <= known, line


@pytest.mark.parametrize("section", SEEN)
def test_nothing_is_left_out(section: str) -> None:
    assert len(rows(section)) == SEEN[section]
