# SPDX-License-Identifier: Apache-2.0
"""``postern consent EVIDENCE``: the record of what a person has just agreed to, for ``postern enrol``.

The evidence, such as the signed form, stays with the operator: the record holds its digest alone.
"""

from __future__ import annotations

import argparse
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import get_args

import msgspec

from agent.cli.options import add_config, read_config, write_output
from agent.clock import Clock, SystemClock
from agent.config.schema import Config
from agent.errors import RefusedError
from agent.gallery.consent import MAX_CONSENT_DAYS, MAX_UNITS, AgeClass, ConsentRecord, Terms, check
from agent.notices.notice import notice_id
from agent.protocol.names import check_name

DEFAULT_DAYS = 365


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
        evidence=arguments.evidence,
        guardian=arguments.guardian,
        units=arguments.unit,
        days=arguments.days,
        age_class=arguments.age_class,
    )
    write_output(arguments.output, msgspec.json.format(msgspec.json.encode(record)))
    return 0


def make_record(
    config: Config,
    clock: Clock,
    *,
    evidence: Path,
    guardian: Path | None = None,
    units: list[str] | None = None,
    days: int = DEFAULT_DAYS,
    age_class: AgeClass = "of_age",
) -> ConsentRecord:
    """Make the record of a consent that is given now; RefusedError when this unit would not accept it."""
    if not 1 <= days <= MAX_CONSENT_DAYS:
        raise RefusedError(f"a consent holds 1 to {MAX_CONSENT_DAYS} days: give --days in that range")
    named = tuple(units or [config.unit.id])
    for unit in named:
        check_name("unit", unit)
    if len(named) > MAX_UNITS:
        raise RefusedError(f"a consent names {MAX_UNITS} units at most: ask per building")
    now = clock.now().replace(microsecond=0)
    notice = notice_id(config)
    record = ConsentRecord(
        purpose=config.purpose,
        site=config.unit.site,
        units=named,
        notice_version=notice.version,
        notice_digest=notice.digest,
        evidence_digest=_digest(evidence),
        given_at=now,
        expires_at=now + timedelta(days=days),
        age_class=age_class,
        guardian_evidence_digest=None if guardian is None else _digest(guardian),
    )
    check(record, Terms(config.unit.site, record.units[0], config.purpose, notice), now=now)
    return record


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise RefusedError(f"cannot read {file} ({error.strerror}): name the file with what was signed") from error
    if digest == hashlib.sha256().hexdigest():
        raise RefusedError(f"{file} is empty, so nobody signed it: name the file with what was signed")
    return f"sha256:{digest}"
