# SPDX-License-Identifier: Apache-2.0
"""Put wrong lines into a copy of the program, one at a time, and say which of them no test notices.

``faults`` tries those of faults.yaml, ``rooms`` those that mutmut makes. The exit status is 0 when all were noticed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tools.lib.mutate import faults, mutants
from tools.lib.mutate.rooms import MEASURED, ROOMS


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/mutate", description=__doc__)
    kinds = parser.add_subparsers(required=True, dest="kind")
    by_hand = kinds.add_parser("faults", help="wrong lines written by hand")
    by_hand.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    made = kinds.add_parser("rooms", help="wrong lines made by mutmut")
    made.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(ROOMS)}; default: the nine measured")
    made.add_argument("--sample", type=int, metavar="N", help="so many mutants a room, drawn by --seed; default: all")
    made.add_argument("--seed", type=int, default=1)
    for each in (by_hand, made):
        each.add_argument("--jobs", type=int, default=1, help="at a time; default: 1")
    args = parser.parse_args()
    if args.kind == "faults":
        return _faults(parser, args.names, args.jobs)
    return _rooms(parser, args.rooms or MEASURED, args.sample, args.jobs, args.seed)


def _faults(parser: argparse.ArgumentParser, names: Sequence[str], jobs: int) -> int:
    known = {fault.name: fault for fault in faults.read()}
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no fault {', '.join(unknown)}: tools/lib/mutate/faults.yaml lists them")
    missed = tried = 0
    for fault, outcome in faults.try_all([known[name] for name in names or known], jobs):
        tried += 1
        missed += outcome != "noticed"
        print(f"{outcome:9} {fault.name}", flush=True)
    print(f"noticed: {_share(tried - missed, tried)}")
    return 1 if missed else 0


def _rooms(parser: argparse.ArgumentParser, rooms: Sequence[str], sample: int | None, jobs: int, seed: int) -> int:
    unknown = [room for room in rooms if room not in ROOMS]
    if unknown:
        parser.error(f"there is no room {', '.join(unknown)}: it is one of {', '.join(ROOMS)}")
    all_noticed = all_tried = 0
    for room in rooms:
        statuses, missed = mutants.measure(room, sample=sample, jobs=jobs, seed=seed)
        tried = statuses.total()
        all_noticed, all_tried = all_noticed + tried - len(missed), all_tried + tried
        ended = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
        print(f"{room}: noticed {_share(tried - len(missed), tried)}: {ended}", flush=True)
        for name in missed:
            print(f"  {name}", flush=True)
    print(f"noticed: {_share(all_noticed, all_tried)}")
    return 0 if all_noticed == all_tried else 1


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.1f} %)" if whole else "nothing was tried"


if __name__ == "__main__":
    sys.exit(main())
