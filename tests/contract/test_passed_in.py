# SPDX-License-Identifier: Apache-2.0
"""Tests pass in what they want to be otherwise: a fake, a bound, a clock. Nothing of the program is replaced in place.

What is patched is not what runs: a constant that one test changed was read by another through its types.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# What belongs to the process, and where a program looks for it itself.
OF_THE_PROCESS = {
    "sys.stdin": "what a person types",
    "sys.stdout": "the terminal, with its letters",
    "tempfile.tempdir": "a folder that is looked into afterwards",
}


def replaced(source: str) -> Iterator[str]:
    """What a file of tests replaces in place: ``line: target``."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (node.module if isinstance(node, ast.ImportFrom) else alias.name or "").partition(".")[0] == "agent"  # type: ignore[union-attr]
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) in ("setattr", "patch", "object"):
            target = _target(node)
            if target not in OF_THE_PROCESS:
                yield f"{node.lineno}: {target}"
        if isinstance(node, ast.Assign | ast.AugAssign):
            for one in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(one, ast.Attribute) and ast.unparse(one).partition(".")[0] in imported:
                    yield f"{node.lineno}: {ast.unparse(one)}"


def _called(function: ast.expr) -> str:
    """The name by which pytest's and mock's ways to replace something are called."""
    if isinstance(function, ast.Attribute):
        owner = ast.unparse(function.value)
        return function.attr if function.attr == "setattr" or owner.endswith(("mock", "patch")) else ""
    return function.id if isinstance(function, ast.Name) and function.id in ("setattr", "patch") else ""


def _target(call: ast.Call) -> str:
    """``place.name``, however it is written."""
    first, second = (*call.args, None, None)[:2]
    if isinstance(first, ast.Constant):
        return str(first.value)
    if first is None:
        return "?"
    name = second.value if isinstance(second, ast.Constant) else "?"
    return f"{ast.unparse(first)}.{name}"


def test_no_test_replaces_a_part_of_the_program() -> None:
    found = {
        str(path.relative_to(TESTS)): list(replaced(path.read_text()))
        for path in sorted(TESTS.rglob("*.py"))
        if path != Path(__file__)
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("monkeypatch.setattr('agent.unit.pause.write_atomic', f)", "agent.unit.pause.write_atomic"),
        ("patch.setattr(service.outbox, 'append', f)", "service.outbox.append"),
        ("setattr(Outbox, name, f)", "Outbox.?"),
        ("mock.patch('agent.clock.now')", "agent.clock.now"),
        ("mock.patch.object(Outbox, 'append')", "Outbox.append"),
        ("from agent.bridge import post\npost.DEADLINE_S = 1", "post.DEADLINE_S"),
        ("import agent.bridge.post\nagent.bridge.post.DEADLINE_S = 1", "agent.bridge.post.DEADLINE_S"),
    ],
)
def test_what_replaces_something_is_found(line: str, told: str) -> None:
    assert [one.partition(": ")[2] for one in replaced(line)] == [told]


@pytest.mark.parametrize(
    "line", ["monkeypatch.setattr(sys, 'stdout', f)", "monkeypatch.setattr('sys.stdin', f)", "unit.x = 1"]
)
def test_what_belongs_to_the_process_may_be(line: str) -> None:
    assert list(replaced(line)) == []
