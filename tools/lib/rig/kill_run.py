# SPDX-License-Identifier: Apache-2.0
"""The command line of the runs that kill: the same options, and the same way to tell what came of them."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def main(
    name: str,
    description: str | None,
    words: Sequence[str] | None,
    *,
    nursery: Callable[[Path], None],
    run: Callable[[Path, int, int], tuple[Mapping[str, int], list[str]]],
    well: str,
) -> int:
    """Exit status 0 only if every promise held; ``run`` takes folder, kills and seed, and ``well`` is told then."""
    parser = argparse.ArgumentParser(prog=f"tools/rig {name}", description=description)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of death")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    parser.add_argument("--nursery", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.nursery is not None:
        nursery(arguments.nursery)
        return 0
    with tempfile.TemporaryDirectory(prefix=f"postern-{name}-") as folder:
        facts, wrong = run(Path(folder), arguments.kills, arguments.seed)
    if arguments.json:
        print(json.dumps({**facts, "wrong": wrong}))
    else:
        print(", ".join(f"{fact} {count}" for fact, count in facts.items()))
        print("\n".join(wrong) or well)
    return 1 if wrong else 0
