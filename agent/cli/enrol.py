# SPDX-License-Identifier: Apache-2.0
"""``postern enrol CONSENT``: a live session with a person who is here and has agreed. No picture is ever read or kept.

The service must be stopped: it holds camera and gallery.
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from agent.cli.options import add_config, read_unit_config
from agent.cli.words import say
from agent.clock import SystemClock
from agent.disk.files import read_brought
from agent.gallery.consent import MAX_CONSENT_BYTES, parse_consent
from agent.protocol.subject import parse_subject
from agent.unit.by_hand import enrol


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("consent", type=Path, metavar="CONSENT", help="the person's consent record, a JSON file")
    parser.add_argument(
        "--subject",
        type=parse_subject,
        help="renew this subject's reference, or make one under the id that another unit gave (32 hexadecimal digits)",
    )
    parser.add_argument(
        "--replace",
        type=parse_subject,
        metavar="SUBJECT",
        help="the same subject once more: its reference is of another model, and you see who stands there",
    )
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Capture, enrol, log; the subject id goes to standard output, everything else is talk."""
    config = read_unit_config(arguments)
    consent = parse_consent(read_brought(arguments.consent, MAX_CONSENT_BYTES))
    subject = enrol(
        config,
        SystemClock(),
        secrets.token_bytes,
        consent,
        arguments.subject,
        replace=arguments.replace,
        tell=say,
    )
    say(f"enrolled: {subject.hex()}")
    return 0
