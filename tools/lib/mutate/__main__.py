# SPDX-License-Identifier: Apache-2.0
"""Put wrong lines into a copy of the program, one at a time, and say which of them no test notices.

``faults`` tries those of faults.yaml, ``rooms`` those that mutmut makes. The exit status is 0 when all were noticed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from tools.lib.evaluate.rates import rate
from tools.lib.mutate import faults, mutants
from tools.lib.mutate.rooms import MEASURED, ROOMS

SAME = "that change nothing"  # outside the share


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
    ended: Counter[str] = Counter()
    for tried in faults.try_all([known[name] for name in names or known], jobs):
        ended[tried.how] += 1
        print(f"{tried.how:9} {tried.name}{f' by {tried.by}' if tried.by else ''}", flush=True)
    print(_summary(ended))
    return 0 if _noticed(ended) == ended.total() else 1


def _rooms(parser: argparse.ArgumentParser, rooms: Sequence[str], sample: int | None, jobs: int, seed: int) -> int:
    unknown = [room for room in rooms if room not in ROOMS]
    if unknown:
        parser.error(f"there is no room {', '.join(unknown)}: it is one of {', '.join(ROOMS)}")
    all_ended: Counter[str] = Counter()
    for room in rooms:
        made = mutants.make(room)
        names = made.drawn(sample, seed)
        print(f"{room}: {len(names)} of {len(made.names)} mutants, seed {seed}", flush=True)
        ended: Counter[str] = Counter()
        for tried in mutants.try_each(made, names, jobs):
            why = made.why_none_could_notice(tried.name) if tried.how == "survived" else None
            ended[tried.how if why is None else SAME] += 1
            if tried.how in ("survived", "broken"):
                told = f"changes nothing, {why}:" if why else tried.how
                print(f"{told} {tried.name}{f' by {tried.by}' if tried.by else ''}", flush=True)
                print(made.diff(tried.name), flush=True)
        print(f"{room}: {_summary(ended)}", flush=True)
        all_ended += ended
    if len(rooms) > 1:
        print(_summary(all_ended))
    return 0 if _noticed(all_ended) == all_ended.total() - all_ended[SAME] else 1


def _noticed(ended: Counter[str]) -> int:
    return ended["noticed"] + ended["timeout"]


def _summary(ended: Counter[str]) -> str:
    if ended.total() == ended[SAME]:
        return "nothing was tried"
    noticed, tried = _noticed(ended), ended.total() - ended[SAME]
    share = rate("share", noticed, tried)
    low, high = 100 * share["share_low"], 100 * share["share_high"]
    how = ", ".join(f"{count} {outcome}" for outcome, count in ended.most_common())
    return f"noticed {noticed} of {tried}: {100 * share['share']:.1f} %, of all {low:.0f} to {high:.0f} % (95 %); {how}"


if __name__ == "__main__":
    sys.exit(main())
