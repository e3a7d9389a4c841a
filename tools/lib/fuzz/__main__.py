# SPDX-License-Identifier: Apache-2.0
"""Attack the command side of a unit with a million payloads, and report."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tools.lib.fuzz.campaign import Report, campaign

COUNT = 1_000_000
TELL_EVERY = 20_000
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder with a random name is made in it; files in memory: a million payloads must not wear a disk


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/fuzz-commands", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"payloads ({COUNT})")
    parser.add_argument("--seed", type=int, default=1, help="another seed sends other payloads (1)")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error("--count must be at least 1")
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        report = campaign(Path(folder), arguments.count, arguments.seed, progress=tell)
    print("\n".join(report.lines()), flush=True)
    return 1 if report.violations else 0


def tell(sent: int, report: Report) -> None:
    """Say now and then, on standard error, how far it is."""
    if sent % TELL_EVERY == 0:
        print(f"{sent} sent, {len(report.violations)} violations, {report.growth_bytes / 1e6:+.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
