# SPDX-License-Identifier: Apache-2.0
"""Which tests reach which function, as mutmut found it: the order in which to ask them, and for how long to wait."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import msgspec

QUICK_S = 0.3  # of a test: after one of each file, these come first, each kind file by file for what a file shares
PATIENCE = 5.0  # times as long as when it was measured: the machine may be busier, a mutant slower
START_S = 30.0


class Reach(msgspec.Struct, frozen=True):
    """Of mutmut's own file; a function is ``agent.room.module.x_name`` or ``….xǁClassǁname``."""

    tests_by_mangled_function_name: dict[str, list[str]]
    duration_by_test: dict[str, float]

    def tests_of(self, function: str) -> list[str]:
        return self._quick_first(self.tests_by_mangled_function_name.get(function, ()))

    def all_tests(self) -> list[str]:
        return self._quick_first(self.duration_by_test)

    def limit_s(self, tests: Collection[str]) -> float:
        return START_S + PATIENCE * sum(self.duration_by_test.get(test, 0.0) for test in tests)

    def _quick_first(self, tests: Collection[str]) -> list[str]:
        took = self.duration_by_test
        of_file: Counter[str] = Counter()
        for test in tests:
            of_file[_file(test)] += took.get(test, 0.0)  # type: ignore[assignment]  # Counter counts seconds too

        def turn(test: str) -> tuple[bool, float, str]:
            file = _file(test)
            return took.get(test, 0.0) >= QUICK_S, of_file[file], file

        in_order = sorted(tests, key=turn)
        # One of each file before any second one: what is noticed at all is mostly noticed by one of these.
        first = {_file(test): test for test in reversed(in_order)}.values()
        return list(dict.fromkeys([*sorted(first, key=lambda test: took.get(test, 0.0)), *in_order]))


def _file(test: str) -> str:
    return test.split("::", maxsplit=1)[0]


def read(folder: Path) -> Reach:
    """What mutmut found in ``folder``, where it ran; nothing where it did not."""
    file = folder / "mutants" / "mutmut-stats.json"
    if not file.exists():
        return Reach({}, {})
    return msgspec.convert(json.loads(file.read_text()), Reach)


def function_at(file: str, source: str, line: int) -> str | None:
    """Mutmut's name of the function of ``file`` (``agent/…``) in whose lines ``line`` is."""
    module = file.removesuffix(".py").replace("/", ".")
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0):
            return f"{module}.x_{node.name}"
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.lineno <= line <= (inner.end_lineno or 0):
                    return f"{module}.xǁ{node.name}ǁ{inner.name}"
    return None
