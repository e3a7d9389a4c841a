# SPDX-License-Identifier: Apache-2.0
"""``postern resolve``: subject ids for verified events, as far as the keys given may say.

Reads the JSON lines of ``postern subscribe --json`` and writes one line for each: the event's place, and ``subject``
or ``refused`` with the reason. Needs neither broker nor unit, and keeps nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from agent.cli.options import add_passphrase, read_passphrase
from agent.cli.words import say
from agent.errors import RefusedError, VerificationError
from agent.parse.strict_json import StrictJsonError, decode, dumps
from agent.protocol.event import MAX_EVENT_BYTES, Event
from agent.subscribe.resolve import Keys, read_epoch_key, read_subjects

MAX_LINE_BYTES = 2 * MAX_EVENT_BYTES  # an event and what the subscriber says about it


class _Outcome(msgspec.Struct, frozen=True):
    """What is read of a subscriber's line."""

    outcome: str
    event: Event | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "events", nargs="?", type=Path, metavar="EVENTS", help="lines of 'postern subscribe --json' (standard input)"
    )
    parser.add_argument(
        "--key", action="append", type=Path, required=True, metavar="FILE",
        help="what 'postern site epoch-key' wrote, for one audience, week and generation; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--subjects", type=Path, required=True, metavar="FILE", help="the subject ids that you may know, one a line"
    )
    parser.add_argument("--consumer-key", type=Path, metavar="FILE", help="your private key, for sealed subjects")
    add_passphrase(parser)


def run(arguments: argparse.Namespace) -> int:
    """Resolve line by line; status 2 when something was refused."""
    consumer = None
    if arguments.consumer_key is not None:
        from agent.protocol.sealed import load_consumer_key  # noqa: PLC0415 - an optional extra

        passphrase = read_passphrase(arguments)
        consumer = load_consumer_key(arguments.consumer_key, passphrase)
    keys = Keys(map(read_epoch_key, arguments.key), read_subjects(arguments.subjects), consumer=consumer)
    refused = False
    with ExitStack() as stack:
        source: BinaryIO = stack.enter_context(_open(arguments.events)) if arguments.events else sys.stdin.buffer
        for line in resolve_lines(_lines(source), keys):
            refused = refused or "refused" in line
            say(dumps(line))
    return RefusedError.exit_status if refused else 0


def resolve_lines(lines: Iterable[bytes], keys: Keys) -> Iterator[dict[str, Any]]:
    """Answer each line; events about nobody are left out."""
    for line in lines:
        try:
            told = decode(line, _Outcome, MAX_LINE_BYTES)
        except StrictJsonError:
            yield {"refused": "malformed", "message": "this is no line of 'postern subscribe --json'"}
            continue
        if told.event is None or told.outcome != "accepted":
            yield {"refused": "not_verified", "message": "the subscriber refused this message"}
            continue
        event = told.event
        place = {"source": event.source, "seq": event.data.seq, "time": event.time, "event_type": event.kind}
        try:
            yield {**place, "subject": keys.resolve(event).hex()}
        except VerificationError as error:
            if error.reason != "no_subject":
                yield {**place, "refused": error.reason, "message": str(error)}


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RefusedError(f"cannot read {path} ({error.strerror}): name the file with the events") from error


def _lines(source: BinaryIO) -> Iterator[bytes]:
    """Lines of bounded length; a longer one comes in pieces, none of which is an event."""
    while line := source.readline(MAX_LINE_BYTES):
        if line.strip():
            yield line
