# SPDX-License-Identifier: Apache-2.0
"""``postern rights``: what a person may ask (GDPR art. 15 and 17), answered on the spot."""

from __future__ import annotations

import argparse
import secrets

from agent.cli.options import add_config, read_unit_config
from agent.cli.subjects import tell_held, tell_receipt
from agent.cli.words import say
from agent.clock import SystemClock
from agent.protocol.subject import parse_subject
from agent.unit.by_hand import erase, held


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("show", "what is held about me? everything but the template itself, as JSON"),
        ("withdraw", "erase it all; prints a signed receipt"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
        add_config(action)


def run(arguments: argparse.Namespace) -> int:
    config = read_unit_config(arguments)
    if arguments.action == "show":
        say(tell_held(held(config, SystemClock(), arguments.subject)))
    else:
        (receipt,) = erase(config, SystemClock(), secrets.token_bytes, [arguments.subject])
        say(tell_receipt(receipt))
    return 0
