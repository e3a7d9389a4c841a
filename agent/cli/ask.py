# SPDX-License-Identifier: Apache-2.0
"""``postern ask``: one signed command to one unit, and its answer. For whoever holds the site's key.

``enrol/begin`` goes on: what the unit tells the person is printed as it comes, until the captures are taken. So does
``verify``, until the unit has an answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.cli.session import add_operator, make_operator, read_trusted
from agent.cli.words import say, tell
from agent.disk.files import read_brought
from agent.errors import KeyStoreError, RefusedError, VerificationError, printable
from agent.parse.strict_json import StrictJsonError, dumps, loads
from agent.protocol.command import MAX_COMMAND_BYTES, VERBS
from agent.protocol.response import Response
from agent.site.records import SiteFiles
from agent.site.units import take_seal_key


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("values", nargs="*", type=_value, metavar="NAME=VALUE", help="or NAME=@FILE, or @FILE")
    add_operator(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer as JSON; a refusal by the unit is told with its code, status 2."""
    path, trusted = read_trusted(arguments)
    if arguments.unit not in trusted.units():
        raise RefusedError(f"{path} names no unit {printable(arguments.unit)}: give the newest trust.jws with --trust")
    operator = make_operator(arguments, trusted)
    args: dict[str, Any] = {}
    for value in arguments.values:
        args |= value
    begun: list[str] = []

    def go_on(progress: Response) -> None:
        data = progress.data or {}
        if data.get("state") == "waiting":
            tell(f"asked; the answer comes within {printable(str(data.get('seconds')))} seconds")
            return
        begun[:] = [str(data.get("enrolment"))]
        captured, wanted, advice = (printable(str(data.get(name) or 0)) for name in ("captured", "wanted", "advice"))
        tell(f"{captured} of {wanted}" + (f": {advice}" if data.get("advice") else ""))

    try:
        answer = operator.ask(arguments.unit, arguments.verb, args, timeout_s=arguments.timeout, on_progress=go_on)
    except KeyboardInterrupt:
        if begun:  # nobody waits for it any more
            operator.ask(arguments.unit, "enrol/abort", {"enrolment": begun[0]}, timeout_s=arguments.timeout)
        raise
    if answer.status == "ok":
        if isinstance(stated := (answer.data or {}).get("seal_key"), str):
            _keep_seal_key(arguments.site_key.parent, stated)
        say(dumps(answer.data or {}, indent=2))
        return 0
    tell(f"postern: the unit refuses ({printable(answer.error or '')}): {printable(answer.message or '')}")
    return RefusedError.exit_status


def _keep_seal_key(folder: Path, token: str) -> None:
    """Keep what the unit's next epoch keys are to be sealed to where the site's folder is at hand; else tell."""
    if not SiteFiles(folder).record.exists():
        tell("carry the answer's seal_key to the site: save it as FILE, 'postern site seal-key FILE' there")
        return
    try:
        take_seal_key(folder, token)
    except VerificationError as error:
        tell(f"postern: the site keeps the seal key that it knows: {error}")


def _value(text: str) -> dict[str, Any]:
    """NAME=VALUE, NAME=@FILE or @FILE; a file that holds a JSON object is sent as one."""
    name, separator, value = text.partition("=")
    if text.startswith("@"):
        content = _content(text[1:])
        if isinstance(content, dict):
            return content
        raise argparse.ArgumentTypeError(f"{text[1:]} holds no JSON object: write NAME=@FILE")
    if not name or not separator:
        raise argparse.ArgumentTypeError("write NAME=VALUE, NAME=@FILE or @FILE")
    if name.endswith("_s") and value.isdecimal():  # seconds are a number
        return {name: int(value)}
    return {name: _content(value[1:]) if value.startswith("@") else value}


def _content(file: str) -> dict[str, Any] | str:
    try:
        content = read_brought(Path(file), MAX_COMMAND_BYTES)
        text = content.decode()
    except (KeyStoreError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot send {file}: {error}") from None
    try:
        found = loads(content, limit=MAX_COMMAND_BYTES)
    except StrictJsonError as error:
        if text.lstrip().startswith("{"):
            raise argparse.ArgumentTypeError(f"cannot send {file}: {error}") from None
        return text.strip()
    return found if isinstance(found, dict) else text.strip()
