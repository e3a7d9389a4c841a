# SPDX-License-Identifier: Apache-2.0
"""``tools/lifetime``: how long a site's units live by themselves, and how fast they join."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from agent.errors import PosternError
from tools.lib.lifetime.days import Fleet, outages
from tools.lib.lifetime.joining import join_all


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when every unit announced all the time, or joined in time."""
    parser = argparse.ArgumentParser(prog="tools/lifetime", description=__doc__)
    modes = parser.add_subparsers(dest="mode", required=True)
    days = modes.add_parser("days", help="months on a simulated clock, with outages of the service")
    days.add_argument("--days", type=int, default=90)
    days.add_argument("--units", type=int, default=50)
    days.add_argument("--outage", type=float, default=10.0, help="days that the service is away at the longest")
    days.add_argument("--seed", type=int, default=1)
    join = modes.add_parser("join", help="units join over a real Mosquitto, all at once")
    join.add_argument("--units", type=int, default=50)
    join.add_argument("--limit", type=float, default=300.0, help="seconds that this may take")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = _days(arguments, Path(folder)) if arguments.mode == "days" else _join(arguments, Path(folder))
        except PosternError as error:
            sys.stderr.write(f"lifetime: {error}\n")
            return error.exit_status
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if report["kept"] else 1


def _days(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    began = time.monotonic()
    fleet = Fleet(folder, arguments.units)
    away = outages(arguments.days, arguments.outage, arguments.seed)
    tally = fleet.live(arguments.days, away, seed=arguments.seed)
    return {
        "units": arguments.units,
        "days": arguments.days,
        "days_without_service": round(sum(one.days for one in away), 1),
        "longest_outage_days": max((one.days for one in away), default=0),
        "announced": tally.announced,
        "silent": tally.silent,
        "fewest_weeks_of_keys": tally.fewest_weeks,
        "fewest_days_of_certificate": tally.fewest_days,
        "units_with_a_new_certificate": tally.certificates,
        "programs_with_a_new_certificate": tally.programs,
        "told": dict(tally.told.most_common(8)),
        "seconds": round(time.monotonic() - began, 1),
        "kept": tally.silent == 0,
    }


def _join(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    report = join_all(folder, arguments.units)
    kept = report["joined"] == arguments.units and float(str(report["seconds_joining"])) < arguments.limit
    return {**report, "kept": kept}


if __name__ == "__main__":
    sys.exit(main())
