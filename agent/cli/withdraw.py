# SPDX-License-Identifier: Apache-2.0
"""``postern withdraw SUBJECT``: erase a person at every unit of the site, and gather the units' signed receipts.

May be repeated: a unit that has erased already gives its receipt again, so whoever was away is asked once more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.cli.options import read_passphrase
from agent.cli.session import add_operator, make_operator, read_trusted
from agent.cli.subjects import tell_receipt
from agent.cli.words import say, tell
from agent.errors import PosternError, RefusedError, RetryError, printable
from agent.parse.strict_json import dumps
from agent.protocol.response import Response
from agent.protocol.subject import parse_subject
from agent.site.token_list import has_tokens, issue_token_list
from agent.site.withdraw import whom_to_ask, withdraw


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
    parser.add_argument("--unit", action="append", metavar="UNIT", help="ask this unit alone; may be repeated")
    add_operator(parser)


def revoke_tokens(
    arguments: argparse.Namespace, asked: Sequence[str], ask: Callable[[str, str, Mapping[str, Any]], Response]
) -> None:
    """Where the site has tokens: put the person on its list, and send that to every unit asked.

    A unit that does not take the list is named, and takes no tokens once its list has ended.
    """
    folder = arguments.site_key.parent
    if not has_tokens(folder):
        return
    listed = issue_token_list(folder, subjects=[arguments.subject], passphrase=read_passphrase(arguments))
    for unit in asked:
        try:
            response = ask(unit, "key/rotate", {"token_list": listed})
            problem = None if response.status == "ok" else printable(response.message or response.error or "")
        except PosternError as error:
            problem = str(error)
        if problem is not None:
            tell(f"{unit} has not taken the list that voids this person's tokens: {problem}")


def run(arguments: argparse.Namespace) -> int:
    """Print each receipt as a line of JSON; status 75 while a unit has still to be asked."""
    path, trusted = read_trusted(arguments)
    asked, revoked = whom_to_ask(trusted, arguments.unit, path)
    operator = make_operator(arguments, trusted)

    def ask(unit: str, verb: str, values: Mapping[str, Any]) -> Response:
        return operator.ask(unit, verb, values, timeout_s=arguments.timeout)

    tell(f"asked: {', '.join(asked)} (list of units number {trusted.serial}, {path})")
    if revoked:
        tell(f"revoked, not asked: {', '.join(revoked)}; what they hold has to be erased at the unit")
    if not arguments.unit:
        revoke_tokens(arguments, asked, ask)
    waiting, receipts = [], 0
    for answer in withdraw(arguments.subject, asked, trusted=trusted, ask=ask):
        if answer.receipt is not None:
            receipts += 1
            say(tell_receipt(answer.receipt))
        else:
            tell(dumps({"unit": answer.unit, "receipt": None, "message": answer.message}))
        if answer.again:
            waiting.append(answer.unit)
    if waiting:
        raise RetryError(f"ask again, the person is not known to be erased at: {', '.join(waiting)}")
    if not receipts:
        raise RefusedError("none of the units asked holds or held this subject: check the id")
    return 0
