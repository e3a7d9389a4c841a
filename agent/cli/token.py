# SPDX-License-Identifier: Apache-2.0
"""``postern token``: hand a person their own reference, sealed, to carry; or ask whether this unit takes one.

To issue one the service must be stopped: it holds the gallery.
"""

from __future__ import annotations

import argparse
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.cli.options import add_config, check_output, read_unit_config
from agent.cli.words import say, tell
from agent.clock import SystemClock
from agent.disk.files import read_brought, write_atomic
from agent.errors import RefusedError, StorageError
from agent.protocol.subject import parse_subject
from agent.unit.by_hand import check_token, issue_token
from agent.unit.card import Kind, draw_card

KINDS: Final[dict[str, Kind]] = {".pdf": "pdf", ".png": "png", ".bin": "bin"}


def configure(parser: argparse.ArgumentParser) -> None:
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    issue = acts.add_parser("issue", help="make the token of somebody who enrolled at this unit (service stopped)")
    issue.add_argument("subject", type=parse_subject, metavar="SUBJECT", help="32 hexadecimal digits")
    issue.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="what is handed over: a card as .pdf or .png, or the bytes for an NFC card as .bin",
    )
    issue.add_argument("--unit", action="append", metavar="UNIT", help="for this unit of the consent alone; may repeat")
    issue.add_argument("--until", metavar="DATE", help="ends at the start of this day (UTC), such as 2026-12-24")
    check = acts.add_parser("check", help="say whether this unit takes the token in a .bin file, and if not why")
    check.add_argument("file", type=Path, metavar="FILE")
    for act in (issue, check):
        add_config(act)


def run(arguments: argparse.Namespace) -> int:
    config = read_unit_config(arguments)
    if arguments.act == "check":
        until = check_token(config, SystemClock(), read_brought(arguments.file))
        say(
            f"this unit takes the token until {until:%Y-%m-%d %H:%M:%S} UTC, unless it was used up or its bearer erased"
        )
        return 0
    file: Path = arguments.output
    kind = KINDS.get(file.suffix)
    if kind is None:
        raise RefusedError(f"{file} names no kind of token: let it end in {', '.join(KINDS)}")
    check_output(file)
    issued = issue_token(
        config,
        SystemClock(),
        secrets.token_bytes,
        arguments.subject,
        units=arguments.unit,
        until=_day(arguments.until),
    )
    content = draw_card(issued, site=config.unit.site, kind=kind)
    try:
        write_atomic(file, content)
    except StorageError as error:
        raise RefusedError(f"{error}, or choose another place") from error
    say(f"{issued.token_id} until {issued.expires_at:%Y-%m-%dT%H:%M:%SZ} at {', '.join(issued.units)}")
    tell(f"hand {file} to its person and destroy it here: it holds their reference, sealed to the units of the site")
    return 0


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise RefusedError("--until takes a day, such as 2026-12-24") from None
