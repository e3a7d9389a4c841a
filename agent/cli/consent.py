# SPDX-License-Identifier: Apache-2.0
"""``postern consent EVIDENCE``: the record of what a person has just agreed to, for ``postern enrol``.

The evidence, such as the signed form, stays with the operator: the record holds its digest alone.
"""

from __future__ import annotations

import argparse
import hashlib
import string
from pathlib import Path
from typing import get_args

import msgspec

from agent.cli.options import add_config, read_config, write_output
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.gallery.consent import MAX_CONSENT_DAYS, AgeClass
from agent.unit.consenting import DEFAULT_DAYS, make_record

PART_BYTES = 1024 * 1024  # of a scanned form at a time
_NOTHING = b"\0" + string.whitespace.encode()  # a power cut leaves a file of zeros


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evidence", type=Path, metavar="EVIDENCE", help="file with what the person signed")
    parser.add_argument(
        "--days", type=int, default=DEFAULT_DAYS, help=f"how long it holds, 1 to {MAX_CONSENT_DAYS} ({DEFAULT_DAYS})"
    )
    parser.add_argument("--unit", action="append", metavar="UNIT", help="a unit it is for (this one); may be repeated")
    parser.add_argument(
        "--age-class", choices=get_args(AgeClass), default="of_age", help="as the person declares it (of_age)"
    )
    parser.add_argument("--guardian", type=Path, metavar="FILE", help="what the guardian signed, needed under 16")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of standard output")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the record, once it is one that this unit would accept."""
    record = make_record(
        read_config(arguments),
        SystemClock(),
        evidence=_digest(arguments.evidence),
        guardian=None if arguments.guardian is None else _digest(arguments.guardian),
        units=arguments.unit or (),
        days=arguments.days,
        age_class=arguments.age_class,
    )
    write_output(arguments.output, msgspec.json.format(msgspec.json.encode(record)))
    return 0


def _digest(file: Path) -> str:
    digest, said = hashlib.sha256(), False
    try:
        with file.open("rb") as content:
            while part := content.read(PART_BYTES):
                digest.update(part)
                said = said or bool(part.strip(_NOTHING))
    except OSError as error:
        raise RefusedError(f"cannot read {file} ({error.strerror}): name the file with what was signed") from error
    if not said:
        raise RefusedError(f"{file} is empty, so nobody signed it: name the file with what was signed")
    return f"sha256:{digest.hexdigest()}"
