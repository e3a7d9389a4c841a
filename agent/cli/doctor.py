# SPDX-License-Identifier: Apache-2.0
"""``postern doctor``: will this unit work here? Every check with its result and, where it failed, what to do."""

from __future__ import annotations

import argparse
import shutil
import textwrap

from msgspec.structs import asdict

from agent.cli.options import add_config, read_unit_config
from agent.cli.words import say, tell
from agent.clock import SystemClock
from agent.errors import PosternError
from agent.parse.strict_json import dumps
from agent.unit.doctor import CHECKS, Finding
from agent.unit.in_child import examine_in_child

MARKS = {"ok": "ok", "advice": "look", "fault": "FAULT"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checks", nargs="*", metavar="CHECK", type=_check, help=f"only these of: {', '.join(CHECKS)}")
    parser.add_argument("--json", action="store_true", help="one JSON object per finding")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do the checks; the status is 1 when something must be repaired before the unit can work."""
    config = read_unit_config(arguments)
    clock = SystemClock()
    faults = 0
    for name in arguments.checks or CHECKS:
        for finding in examine_in_child(name, config, clock):
            faults += finding.state == "fault"
            say(as_line(finding, as_json=arguments.json))
    if faults:
        tell(f"{faults} of the checks failed: repair these first")
    return PosternError.exit_status if faults else 0


def _check(name: str) -> str:
    if name not in CHECKS:
        raise argparse.ArgumentTypeError(f"there is no such check; there are {', '.join(CHECKS)}")
    return name


def as_line(finding: Finding, *, as_json: bool) -> str:
    """As one JSON object, or as wide as the terminal."""
    if as_json:
        return dumps(asdict(finding))
    width = max(40, min(shutil.get_terminal_size((110, 24)).columns, 140))
    indent = " " * 22
    return textwrap.fill(
        finding.text,
        width,
        initial_indent=f"{MARKS[finding.state]:<6}  {finding.check:<12}  ",
        subsequent_indent=indent,
    )
