# SPDX-License-Identifier: Apache-2.0
"""``postern site config``: the settings of all units, from one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.cli.options import write_output
from agent.cli.words import say, tell
from agent.errors import RefusedError
from agent.protocol.names import check_name
from agent.site import configuration

Act = Callable[[str, Callable[[argparse.Namespace, bytes | None], None], str], argparse.ArgumentParser]


def configure(act: Act) -> None:
    """Add the act; ``act`` makes it."""
    config = act("config", _run, "check, apply or sign the settings of the site's units")
    config.add_argument(
        "do_what",
        choices=tuple(_DO),
        metavar="check|apply|sign",
        help="check FILE against schema and units; apply FILE: the service sends it; sign UNIT's part, to carry it",
    )
    config.add_argument("target", metavar="FILE|UNIT")
    config.add_argument("-o", "--output", type=Path, metavar="FILE", help="with sign: where to write it")


def _run(arguments: argparse.Namespace, _: bytes | None) -> None:
    if arguments.output is not None and arguments.do_what != "sign":
        raise RefusedError("only 'sign' writes a file: leave --output out")
    _DO[arguments.do_what](arguments)


def _check(arguments: argparse.Namespace) -> None:
    _, read = configuration.check_file(arguments.folder, Path(arguments.target))
    for name, settings in (("all", read.all), *read.units.items()):
        given = {section: value for section, value in msgspec.to_builtins(settings).items() if value}
        say(f"{name:<20}  {msgspec.json.encode(given).decode()}")


def _apply(arguments: argparse.Namespace) -> None:
    serial = configuration.apply_file(arguments.folder, Path(arguments.target))
    tell(f"configuration {serial}: the site's service sends it, and 'postern site units' shows what came of it")


def _sign(arguments: argparse.Namespace) -> None:
    unit = check_name("unit", arguments.target)
    write_output(arguments.output, configuration.sign_for(arguments.folder, unit).encode())
    tell(f"send it: postern ask {unit} unit/configure configuration=@FILE")


_DO: dict[str, Callable[[argparse.Namespace], None]] = {"check": _check, "apply": _apply, "sign": _sign}
