# SPDX-License-Identifier: Apache-2.0
"""What is imported from cryptography is there in Debian 12's (38), the oldest that a unit may have.

Types are another matter: under TYPE_CHECKING alone. The distribution's own Python is asked, where this machine has it.
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3")
LATER = {
    "agent/protocol/sealed.py"
}  # cryptography 47 for HPKE: says so in one sentence, and is loaded when it is asked for
ASK = """
import cryptography, importlib, json, sys
lacks = []
for module, name in json.load(sys.stdin):
    try:
        found = importlib.import_module(module)
    except ImportError:
        lacks.append([module, name])
        continue
    if not hasattr(found, name):
        try:
            importlib.import_module(f"{module}.{name}")
        except ImportError:
            lacks.append([module, name])
print(json.dumps([cryptography.__version__, lacks]))
"""


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """What a module takes from cryptography when it runs, at whatever place."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.If) and isinstance(inner.test, ast.Name) and inner.test.id == "TYPE_CHECKING":
            continue
        if isinstance(inner, ast.ImportFrom) and (inner.module or "").split(".")[0] == "cryptography":
            yield from ((inner.module or "", alias.name) for alias in inner.names)
        yield from imported(inner)


def of_the_product() -> set[tuple[str, str]]:
    files = [file for file in (ROOT / "agent").rglob("*.py") if str(file.relative_to(ROOT)) not in LATER]
    return {pair for file in files for pair in imported(ast.parse(file.read_text()))}


def test_types_of_cryptography_are_no_part_of_a_start() -> None:
    """Their names changed with almost every release."""
    assert of_the_product()
    assert not {pair for pair in of_the_product() if pair[0].endswith(".types") or pair[1] == "types"}


def test_all_that_a_unit_imports_is_in_the_distributions_own_cryptography() -> None:
    asked = json.dumps(sorted(of_the_product()))
    try:
        done = subprocess.run(
            [PYTHON, "-I", "-c", ASK], input=asked, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError:
        pytest.skip("needs the distribution's Python")
    if done.returncode:
        pytest.skip("needs python3-cryptography")
    version, lacks = json.loads(done.stdout)
    assert not lacks, f"cryptography {version} has none of these"
