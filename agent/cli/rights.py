# SPDX-License-Identifier: Apache-2.0
"""``postern rights``: what a person may ask (GDPR art. 15 and 17), answered on the spot."""

from __future__ import annotations

import argparse
import secrets

from agent.cli.options import add_config, read_unit_config
from agent.cli.subjects import erase, tell_held, tell_receipt
from agent.clock import SystemClock
from agent.config.schema import Config
from agent.errors import RefusedError
from agent.subject import SubjectId, parse_subject
from agent.unit.assemble import load_key, open_gallery


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the question."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("show", "what is held about me? everything but the template itself, as JSON"),
        ("withdraw", "erase it all; prints a signed receipt"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
        add_config(action)


def run(arguments: argparse.Namespace) -> int:
    """Answer."""
    config = read_unit_config(arguments)
    if arguments.action == "show":
        print(_held(config, arguments.subject))
    else:
        (receipt,) = erase(config, SystemClock(), secrets.token_bytes, [arguments.subject])
        print(tell_receipt(receipt))
    return 0


def _held(config: Config, subject: SubjectId) -> str:
    with open_gallery(config, load_key(config), SystemClock()) as gallery:
        held = gallery.held(subject)
    if held is None:
        raise RefusedError("nothing is held about this subject at this unit: check the id")
    return tell_held(held)
