# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.lib.release.changelog``: the version stands once, and everything else agrees with it.

The version is ``__version__`` of ``agent/__init__.py``: a unit tells it without any other file, and the Python package,
the Debian package and the source archive take it from there. The first line of ``deploy/debian/changelog`` must say the
same, and so must the tag of this commit where it carries one; a tagged commit's changelog is no longer ``UNRELEASED``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
UNRELEASED = "UNRELEASED"  # Debian's word for an entry that is still being written
SECTIONS = ("Added", "Changed", "Fixed", "Security")

_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_HEAD = re.compile(r"postern \((?P<version>\d+\.\d+\.\d+)\) (?P<distribution>[A-Za-z]+); urgency=(low|medium|high)")
_SECTION = re.compile(r"  \[ (?P<name>[A-Z][a-z]+) \]")
_CHANGE = re.compile(r"  \* \S.*|    \S.*")  # a change, or another line of it
_END = re.compile(r" -- [^<>]+ <[^<> ]+>  [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What one version changed."""

    version: str
    distribution: str


class ChangelogError(ValueError):
    """A line that Debian's tools or a reader would stumble over."""


def read_changelog(text: str) -> tuple[Entry, ...]:
    """List the entries, newest first; ChangelogError with the line that is wrong."""
    entries: list[Entry] = []
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if (head := _HEAD.fullmatch(line)) and not inside:
            entries.append(Entry(head["version"], head["distribution"]))
            inside = True
        elif inside and _END.fullmatch(line):
            inside = False
        elif section := _SECTION.fullmatch(line):
            if section["name"] not in SECTIONS:
                raise ChangelogError(f"line {number}: sections are {', '.join(SECTIONS)}")
        elif line and not (inside and _CHANGE.fullmatch(line)):
            raise ChangelogError(
                f"line {number}: neither 'postern (X.Y.Z) …; urgency=…', a change, nor ' -- name  date'"
            )
    if inside or not entries:
        raise ChangelogError("the last entry has no ' -- name <address>  date'")
    return tuple(entries)


def package_version(root: Path) -> str:
    """Read the version that everything else follows."""
    found = _VERSION.search((root / "agent/__init__.py").read_text())
    if found is None:
        raise ChangelogError("agent/__init__.py: there is no __version__")
    return found[1]


def disagreements(version: str, newest: Entry, tags: Iterable[str]) -> list[str]:
    """Say in sentences what differs from ``version``; ``tags`` are those of this commit."""
    found = []
    if newest.version != version:
        found.append(f"deploy/debian/changelog begins with {newest.version}, agent/__init__.py says {version}")
    for tag in tags:
        if tag != f"v{version}":
            found.append(f"this commit is tagged {tag}, agent/__init__.py says {version}")
        elif newest.distribution == UNRELEASED:
            found.append(f"this commit is tagged {tag}, and deploy/debian/changelog still says {UNRELEASED}")
    return found


def release_tags(root: Path) -> tuple[str, ...]:
    """List the tags of this commit that look like releases; none outside a git checkout."""
    command = ["git", "-C", str(root), "tag", "--points-at", "HEAD", "--list", "v[0-9]*"]
    try:
        return tuple(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return ()


def main() -> int:
    """Print each disagreement; exit status 1 when there is one."""
    try:
        newest = read_changelog((ROOT / "deploy/debian/changelog").read_text())[0]
        found = disagreements(package_version(ROOT), newest, release_tags(ROOT))
    except (ChangelogError, OSError) as error:
        found = [f"deploy/debian/changelog: {error}"]
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
