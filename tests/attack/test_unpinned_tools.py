# SPDX-License-Identifier: Apache-2.0
"""What builds and judges this program comes by version and digest, and follows pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "tools" / "lib" / "locks").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CAMERAS = {"ai-edge-litert", "numpy", "pillow"}  # what a unit needs and a bridge does not
ENTRY = re.compile(
    r"^(?P<wanted>[a-z0-9][^\n]*?) \\\n(?P<digests>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def entries(lock: Path) -> list[Requirement]:
    return [Requirement(found["wanted"]) for found in ENTRY.finditer(lock.read_text())]


def test_there_are_locks() -> None:
    assert {lock.stem for lock in LOCKS} >= {"bridge", "dev", "demo", "release", "uv"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_line_of_a_lock_is_a_version_with_its_digests(lock: Path) -> None:
    rest = ENTRY.sub("", lock.read_text())
    assert all(line.startswith("#") for line in rest.splitlines()), rest
    for entry in entries(lock):
        (exact,) = entry.specifier
        assert exact.operator == "=="
        assert entry.url is None


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_holds_what_the_project_asks_for(lock: Path) -> None:
    """After a change of pyproject.toml: tools/lib/locks/renew.sh."""
    wanted = ["uv"]  # installs the others
    if lock.stem != "uv":
        extra = PROJECT["project"]["optional-dependencies"][lock.stem]
        wanted = PROJECT["project"]["dependencies"] + extra + PROJECT["build-system"]["requires"]
    held = {canonicalize_name(one.name): one for one in entries(lock) if one.marker is None or one.marker.evaluate()}
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if lock.stem == "bridge" and name in CAMERAS:
            assert name not in held
            continue
        assert name in held, f"{lock.name} has no {name}: run tools/lib/locks/renew.sh"
        (exact,) = held[name].specifier
        assert requirement.specifier.contains(Version(exact.version), prereleases=True), f"{lock.name}: {held[name]}"
