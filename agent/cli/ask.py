# SPDX-License-Identifier: Apache-2.0
"""``postern ask``: one signed command to one unit, and its answer. For whoever holds the site's key.

``enrol/begin`` goes on: what the unit tells the person is printed as it comes, until the captures are taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from agent.cli.session import add_operator, make_operator
from agent.errors import KeyStoreError, RefusedError
from agent.files import read_bounded
from agent.protocol.command import MAX_COMMAND_BYTES, VERBS, Response


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("values", nargs="*", type=_value, metavar="NAME=VALUE", help="or NAME=@FILE, or @FILE")
    add_operator(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer as JSON; a refusal by the unit is told with its code, status 2."""
    operator = make_operator(arguments)
    args: dict[str, Any] = {}
    for value in arguments.values:
        args |= value
    begun: list[str] = []

    def tell(progress: Response) -> None:
        data = progress.data or {}
        begun[:] = [str(data.get("enrolment"))]
        advice = data.get("advice")
        print(
            f"{data.get('captured')} of {data.get('wanted')}" + (f": {advice}" if advice else ""),
            file=sys.stderr,
            flush=True,
        )

    try:
        answer = operator.ask(arguments.unit, arguments.verb, args, timeout_s=arguments.timeout, on_progress=tell)
    except KeyboardInterrupt:
        if begun:  # nobody waits for it any more
            operator.ask(arguments.unit, "enrol/abort", {"enrolment": begun[0]}, timeout_s=arguments.timeout)
        raise
    if answer.status == "ok":
        print(json.dumps(answer.data or {}, indent=2))
        return 0
    print(f"postern: the unit refuses ({answer.error}): {answer.message}", file=sys.stderr)
    return RefusedError.exit_status


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
    return {name: _content(value[1:]) if value.startswith("@") else value}


def _content(file: str) -> dict[str, Any] | str:
    try:
        text = read_bounded(Path(file), MAX_COMMAND_BYTES).decode()
    except (KeyStoreError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot send {file}: {error}") from None
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    return found if isinstance(found, dict) else text.strip()
