# SPDX-License-Identifier: Apache-2.0
"""What the gallery says about a reference: to the person it is of, to the operator, and to the sweep."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from agent.gallery.consent import AgeClass, ConsentRecord
from agent.gallery.retention import Deadline, Retention
from agent.protocol.receipt import ErasureReceipt
from agent.protocol.subject import SubjectId


class EnrolmentRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sealed beside a template."""

    consent: ConsentRecord
    enrolled_at: Annotated[datetime, Meta(tz=True)]
    captures: int


class Held(msgspec.Struct, frozen=True):
    """Answer to an access request (GDPR art. 15): what is held, why, and until when. No biometric value.

    What is held is one template of 128 numbers made from ``captures`` captures by model ``model``; no picture.
    ``erased_by`` is the day on which it goes at the latest if the person is not matched again.
    """

    subject: SubjectId
    model: str
    captures: int
    purpose: str
    site: str
    units: tuple[str, ...]
    notice_version: str
    evidence_digest: str
    age_class: AgeClass
    given_at: datetime
    expires_at: datetime
    enrolled_at: datetime
    last_used_on: date
    erased_by: date


def held(subject: SubjectId, model: str, record: EnrolmentRecord, deadline: Deadline, retention: Retention) -> Held:
    unused_by = deadline.last_used_on + timedelta(days=retention.unused_days)
    return Held(
        subject=subject,
        model=model,
        captures=record.captures,
        purpose=record.consent.purpose,
        site=record.consent.site,
        units=record.consent.units,
        notice_version=record.consent.notice_version,
        evidence_digest=record.consent.evidence_digest,
        age_class=record.consent.age_class,
        given_at=record.consent.given_at,
        expires_at=record.consent.expires_at,
        enrolled_at=record.enrolled_at,
        last_used_on=deadline.last_used_on,
        erased_by=min(unused_by, deadline.expires_at.date()),
    )


TOMBSTONE_DAYS = 1095  # so long a repeated request gets its receipt again; processing logs are kept as long


class Erased(NamedTuple):
    """Who has just been erased, for whoever else knows them, and what the unit states about it."""

    subject: SubjectId
    receipt: ErasureReceipt
