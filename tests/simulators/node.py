# SPDX-License-Identifier: Apache-2.0
"""Node.js, and the verifier in JavaScript with what it needs, installed as its README says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VERIFIER = Path(__file__).parents[2] / "deploy" / "node-red"
INSTALL_S = 50  # six small packages


def program(name: str = "node") -> str:
    """Path of node or npm; without it the test skips, or fails where POSTERN_REQUIRE_NODE=1."""
    found = shutil.which(name)
    if found is not None:
        return found
    message = f"{name} is not installed: apt-get install nodejs npm"
    if os.environ.get("POSTERN_REQUIRE_NODE") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def run(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run node with this on its standard input, and capture what it says."""
    command = [program(), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=INSTALL_S)


def install_verifier(folder: Path) -> Path:
    """Copy the verifier to ``folder`` and install exactly what its lock file says."""
    program()
    npm = program("npm")
    for path in [*VERIFIER.glob("*.js"), *VERIFIER.glob("[!f]*.json")]:
        shutil.copy(path, folder)
    options = ["--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    installed = subprocess.run([npm, "ci", *options], cwd=folder, capture_output=True, text=True, timeout=INSTALL_S)
    assert installed.returncode == 0, installed.stderr
    return folder
