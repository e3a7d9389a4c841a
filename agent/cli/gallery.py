# SPDX-License-Identifier: Apache-2.0
"""``postern gallery list``, ``erase`` and ``card``: what this unit holds, and knows people by at a controller.

The service must be stopped, or be asked instead; not for ``card``.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence

from agent.cli.options import add_config, read_unit_config
from agent.cli.subjects import tell_held, tell_receipt
from agent.cli.words import say
from agent.clock import SystemClock
from agent.config.schema import Config
from agent.errors import RefusedError, printable
from agent.gallery.records import Held
from agent.protocol.subject import parse_subject
from agent.unit.by_hand import card_number, erase, listing


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every reference: since when, until when, under which consent")
    listing.add_argument("--json", action="store_true", help="everything that is held, as JSON")
    add_config(listing)
    erasing = actions.add_parser("erase", help="destroy references, with signed receipts on standard output")
    erasing.add_argument("subject", nargs="*", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
    erasing.add_argument("--all", action="store_true", help="every reference: the unit is taken down or moved")
    add_config(erasing)
    card = actions.add_parser("card", help="somebody's number at the access controller (outputs of kind osdp)")
    card.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
    add_config(card)


def run(arguments: argparse.Namespace) -> int:
    config = read_unit_config(arguments)
    if arguments.action == "list":
        return _list(config, as_json=arguments.json)
    if arguments.action == "card":
        number = card_number(config, secrets.token_bytes, arguments.subject)
        say(f"{number.hex()} ({8 * len(number)} bits, {int.from_bytes(number, 'big')} as a number)")
        return 0
    if bool(arguments.subject) == arguments.all:
        raise RefusedError("name the subjects to erase, or say --all")
    for receipt in erase(config, SystemClock(), secrets.token_bytes, None if arguments.all else arguments.subject):
        say(tell_receipt(receipt))
    return 0


def _list(config: Config, *, as_json: bool) -> int:
    everything, unreadable = listing(config, SystemClock())
    say(as_text(everything, as_json=as_json))
    if unreadable:
        raise RefusedError(f"{unreadable} references are damaged and cannot be told: restore them, or erase --all")
    return 0


def as_text(everything: Sequence[Held], *, as_json: bool) -> str:
    """A line for each reference."""
    if as_json:
        return "[" + ",\n".join(map(tell_held, everything)) + "]"
    lines = [f"{'subject':<32}  {'enrolled':<10}  {'last used':<10}  {'erased by':<10}  {'consent to':<10}  notice"]
    for held in everything:
        days = (held.enrolled_at.date(), held.last_used_on, held.erased_by, held.expires_at.date())
        lines.append(f"{held.subject.hex()}  {'  '.join(map(str, days))}  {printable(held.notice_version)}")
    return "\n".join(lines)
