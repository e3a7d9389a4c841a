# SPDX-License-Identifier: Apache-2.0
"""The record of a consent that is given now, on this unit's terms; what was signed stays with the operator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from agent.clock import Clock
from agent.config.schema import Config
from agent.errors import RefusedError
from agent.gallery.consent import MAX_CONSENT_DAYS, MAX_UNITS, AgeClass, ConsentRecord, Terms, check
from agent.notices.notice import notice_id
from agent.protocol.names import check_name

DEFAULT_DAYS: Final = 365


def make_record(
    config: Config,
    clock: Clock,
    *,
    evidence: str,
    guardian: str | None = None,
    units: Sequence[str] = (),
    days: int = DEFAULT_DAYS,
    age_class: AgeClass = "of_age",
) -> ConsentRecord:
    """Make the record; ``evidence`` and ``guardian`` are digests. RefusedError when this unit would not accept it."""
    if not 1 <= days <= MAX_CONSENT_DAYS:
        raise RefusedError(f"a consent holds 1 to {MAX_CONSENT_DAYS} days: choose a number in that range")
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
        evidence_digest=evidence,
        given_at=now,
        expires_at=now + timedelta(days=days),
        age_class=age_class,
        guardian_evidence_digest=guardian,
    )
    check(record, Terms(config.unit.site, record.units[0], config.purpose, notice), now=now)
    return record
