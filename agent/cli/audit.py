# SPDX-License-Identifier: Apache-2.0
"""``postern audit verify``: the hash chain holds, and its end is the one that the unit's health told."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.audit.chain import AuditHead, Entry, parse_head, read_entries, verify_log
from agent.cli.options import add_config, read_unit_config
from agent.cli.words import say
from agent.errors import RefusedError, VerificationError, printable
from agent.gallery.database import held_anybody


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (("verify", "check every entry and its place"), ("list", "check, then print every entry")):
        action = actions.add_parser(name, help=text)
        action.add_argument("--log", type=Path, metavar="FILE", help="a copy of a log, instead of this unit's")
        action.add_argument(
            "--head",
            type=_head,
            metavar="SEQ:DIGEST",
            help="'audit' of a health message; without it a missing end is not noticed",
        )
        add_config(action)


def run(arguments: argparse.Namespace) -> int:
    """Verify, and list if asked to; VerificationError says what is wrong with the log."""
    config = None if arguments.log else read_unit_config(arguments)
    path = arguments.log if config is None else config.audit.path
    report = verify_log(path, arguments.head)
    if report.head.seq == 0 and config is not None and held_anybody(config.gallery.path):
        raise VerificationError(
            "cut_off", f"the log {path} is missing or empty, but people were enrolled at this unit: it was removed"
        )
    if not path.exists():
        raise RefusedError(f"there is no audit log {path}: name the file, or the configuration of the unit")
    if arguments.action == "list":
        for entry in read_entries(path):
            say(tell_entry(entry))
    say(
        f"the log holds: entries {report.first} to {report.head.seq}, {report.personal} with personal parts, "
        f"{report.erased} whose personal part was erased; head {report.head}"
    )
    if arguments.head is None:
        say("without --head a missing end is not noticed: give the audit head of the last health message")
    if report.loose:
        say(f"{report.loose} personal parts belong to no entry: they were changed, or a power cut came between")
    return 0


def tell_entry(entry: Entry) -> str:
    """Spell an entry as one line."""
    facts = " ".join(f"{printable(name)}={printable(str(value))}" for name, value in entry.facts.items())
    return f"{entry.seq:>6}  {printable(entry.at)}  {entry.clock:<8}  {entry.kind:<18}  {facts}".rstrip()


def _head(text: str) -> AuditHead:
    try:
        return parse_head(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
