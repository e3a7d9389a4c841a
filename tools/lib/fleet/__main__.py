# SPDX-License-Identifier: Apache-2.0
"""``tools/fleet``: see the program itself for what it takes."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from agent.errors import PosternError
from agent.site.records import BrokerKind
from tools.lib.fleet.limits import measure as measure_limits
from tools.lib.fleet.run import Plan, run
from tools.lib.fleet.site import FleetSite
from tools.lib.fleet.verify import measure

FAULTS = ("cut", "kill", "broker")


def main(words: Sequence[str] | None = None) -> int:
    """0 when everything signed was delivered, or the verifier kept its promises."""
    arguments = _parser().parse_args(_with_mode(sys.argv[1:] if words is None else words))
    try:
        return int(not arguments.do(arguments))
    except PosternError as error:
        print(f"tools/fleet: {error}", file=sys.stderr)
        return error.exit_status


def _with_mode(words: Sequence[str]) -> list[str]:
    return [*([] if words and words[0] in ("join", "run", "verify", "limits", "-h", "--help") else ["once"]), *words]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/fleet", description="Many simulated units against a broker.")
    modes = parser.add_subparsers(required=True, metavar="{join,run,verify,limits}")
    once = modes.add_parser("once", help="join and run, with a broker of its own; this when none is named")
    _add_units(once)
    _add_run(once)
    once.set_defaults(do=_once, broker=None, pid=())
    joined = modes.add_parser("join", help="make a site with units, and the files that its broker needs")
    joined.add_argument("folder", type=Path)
    joined.add_argument("--host", required=True, help="name or address by which the units reach the broker")
    _add_units(joined)
    joined.set_defaults(do=_join)
    running = modes.add_parser("run", help="let the units of a folder speak")
    running.add_argument("folder", type=Path)
    running.add_argument("--broker", type=_place, required=True, metavar="HOST:PORT")
    running.add_argument(
        "--pid", type=int, action="append", help="process of the broker, where it runs on this machine; of each node"
    )
    _add_run(running)
    running.set_defaults(
        do=lambda arguments: _run(FleetSite(arguments.folder), _plan(arguments), as_json=arguments.json)
    )
    alone = modes.add_parser("verify", help="the verifier alone, on one core")
    alone.add_argument("--units", type=int, default=500)
    alone.add_argument("--events", type=int, default=1_000_000)
    alone.add_argument("--json", action="store_true", help="one object on standard output")
    alone.set_defaults(do=_verify)
    limits = modes.add_parser("limits", help="what one Mosquitto holds, as it is deployed")
    limits.add_argument("--sessions", type=int, default=400)
    limits.add_argument("--said", type=int, default=12_000, help="events while the auditor is away")
    limits.add_argument("--waited", type=int, default=1000, help="events that wait when the broker ends")
    limits.add_argument("--saved-after", type=float, action="append", help="seconds from the last event to a kill")
    limits.set_defaults(do=_limits)
    return parser


def _add_units(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--kind", choices=get_args(BrokerKind), default="mosquitto", help="what the broker is")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=10.0, help="events a second, of all units together")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--faults", default="", help=f"of {','.join(FAULTS)}: one every five seconds, in turn")
    parser.add_argument("--json", action="store_true", help="one object on standard output")


def _place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError("is HOST:PORT")
    return host.strip("[]"), int(port)


def _once(arguments: argparse.Namespace) -> bool:
    plan = _plan(arguments)
    with tempfile.TemporaryDirectory(prefix="postern-fleet-") as folder:
        fleet = FleetSite(Path(folder))
        fleet.join(arguments.units, "127.0.0.1", kind=arguments.kind)
        return _run(fleet, plan, as_json=arguments.json)


def _join(arguments: argparse.Namespace) -> bool:
    fleet, kind = FleetSite(arguments.folder), arguments.kind
    fleet.join(arguments.units, arguments.host, kind=kind)
    page = f"deploy/{kind}/README.md"
    print(f"carry {fleet.files.broker} to the broker as {page} says; then tools/fleet run {arguments.folder}")
    return True


def _plan(arguments: argparse.Namespace) -> Plan:
    faults = [fault for fault in arguments.faults.split(",") if fault]
    if not set(faults) <= set(FAULTS) or arguments.rate <= 0 or arguments.seconds <= 0:
        raise SystemExit(f"tools/fleet: faults are of {','.join(FAULTS)}; rate and seconds are above 0")
    if arguments.broker is not None and {"cut", "broker"} & set(faults):
        raise SystemExit("tools/fleet: to cut links or kill the broker needs a broker of its own: leave --broker out")
    return Plan(arguments.rate, arguments.seconds, faults, arguments.broker, arguments.pid or ())


def _run(fleet: FleetSite, plan: Plan, *, as_json: bool) -> bool:
    report = run(fleet, plan)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        Console().print(report.table())
        print("as promised" if report.ok else "not as promised")
    return report.ok


def _verify(arguments: argparse.Namespace) -> bool:
    measured = measure(units=arguments.units, events=arguments.events)
    if arguments.json:
        print(json.dumps(measured.as_json()))
    else:
        print(measured.sentence())
    return measured.ok


def _limits(arguments: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="postern-fleet-") as folder:
        measured = measure_limits(
            Path(folder),
            sessions=arguments.sessions,
            said=arguments.said,
            waited=arguments.waited,
            saved_after_s=tuple(arguments.saved_after or (30, 65)),
        )
    print(json.dumps(measured.as_json(), indent=1))
    return True


if __name__ == "__main__":
    sys.exit(main())
