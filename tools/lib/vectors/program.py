# SPDX-License-Identifier: Apache-2.0
"""``tools/vectors``: write the files of ``tests/vectors``, or say whether they are what would be written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.lib.vectors.answers import answers
from tools.lib.vectors.build import Members
from tools.lib.vectors.chains import chains
from tools.lib.vectors.commands import commands
from tools.lib.vectors.events import events
from tools.lib.vectors.pseudonyms import pseudonyms, sealed
from tools.lib.vectors.receipts import receipts
from tools.lib.vectors.trust import trust

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "vectors"
SUBJECTS: Mapping[str, Callable[[], Members]] = {
    "events": events,
    "chains": chains,
    "trust": trust,
    "commands": commands,
    "answers": answers,
    "receipts": receipts,
    "pseudonyms": pseudonyms,
    "sealed": sealed,
}


def render(subject: str) -> str:
    """The text of a subject's file: the same each time, in ASCII."""
    return json.dumps(SUBJECTS[subject](), indent=1) + "\n"


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of files that differ from what would be written, or are missing."""
    return [
        name for name in map("{}.json".format, SUBJECTS) if _text(folder / name) != render(name.removesuffix(".json"))
    ]


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("ascii", errors="replace")
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all files; with ``--check`` write none, and status 1 says that some are not current."""
    parser = argparse.ArgumentParser(prog="tools/vectors", description="Write the test vectors of tests/vectors.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail unless every file is current")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are (default: tests/vectors)")
    given = parser.parse_args(arguments)
    if given.check:
        old = stale(given.folder)
        if old:
            print(f"not current, write them with tools/vectors: {', '.join(old)}", file=sys.stderr)
        return 1 if old else 0
    given.folder.mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        path = given.folder / f"{subject}.json"
        path.write_text(render(subject), encoding="ascii")
        print(f"{path.name}: {len(json.loads(path.read_text())['cases'])} cases")
    return 0
