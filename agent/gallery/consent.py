# SPDX-License-Identifier: Apache-2.0
"""The consent record: without one that is valid here and now, no reference can come to exist.

The record says what a person agreed to, where, for how long, and by which act; what they signed stays
with the operator and is tied in by its digest. It carries no name. It is kept, encrypted, with the
template it allows, and goes with it.

Sources: GDPR art. 4(11), 7, 8 and 9(2)(a); CAC and MPS order 19 of 2025 (China) art. 6 and 7 (guardian
under 14); 740 ILCS 14/15 (written release; three years after the last interaction at the latest).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import ConsentError, printable
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.names import Digest, Name, NoticeId

MAX_CONSENT_BYTES = 16 * 1024  # JSON; the longest lists of units and texts need about 10 KiB
MAX_CONSENT_DAYS = 1095  # 740 ILCS 14/15(a): no reference outlives three years without a new act
MAX_UNITS = 64  # units that one consent may name; a site with more doors asks per building
CLOCK_TOLERANCE = timedelta(minutes=5)  # between the clock where consent was given and the unit's

Time = Annotated[datetime, Meta(tz=True)]

# GDPR art. 8 lets member states choose 13 to 16, CAC order 19 art. 7 says 14; here a guardian agrees for all under 16.
AgeClass = Literal["under_14", "under_16", "of_age"]


class ConsentRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person agreed to. Times are ISO 8601 with an offset.

    ``purpose`` is the sentence of the notice; ``evidence_digest`` is of what was signed; ``age_class`` is as
    declared, never estimated from the face.
    """

    purpose: Annotated[str, Meta(min_length=20, max_length=500)]
    site: Name
    units: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_UNITS)]
    notice_version: Annotated[str, Meta(min_length=1, max_length=32)]
    notice_digest: Digest
    evidence_digest: Digest
    given_at: Time
    expires_at: Time
    age_class: AgeClass
    guardian_evidence_digest: Digest | None = None


def parse_consent(content: bytes) -> ConsentRecord:
    """Read a consent record from JSON; ConsentError says which field is wrong."""
    if len(content) > MAX_CONSENT_BYTES:
        raise ConsentError(
            f"the consent record is longer than {MAX_CONSENT_BYTES} bytes: this is not one", reason="consent_malformed"
        )
    try:
        return decode(content, ConsentRecord, MAX_CONSENT_BYTES)
    except StrictJsonError as error:
        raise ConsentError(
            f"the consent record is not complete: {printable(str(error))}", reason="consent_malformed"
        ) from error


class Terms(msgspec.Struct, frozen=True):
    """What a consent must name to hold at a unit; ``notice`` is the one that hangs there."""

    site: str
    unit: str
    purpose: str
    notice: NoticeId | None = None


def check(record: ConsentRecord, terms: Terms, *, now: datetime) -> None:
    """Refuse unless ``record`` allows a reference on these terms, at this time.

    Raises ConsentError with the first thing that is missing. A unit whose clock was never set refuses too: it cannot
    tell whether a consent is in force.
    """
    if record.site != terms.site:
        raise ConsentError(
            "the consent was given for another site: ask the person for this one", reason="consent_wrong_site"
        )
    if terms.unit not in record.units:
        raise ConsentError(
            f"the consent does not name unit {terms.unit}: ask the person for this unit", reason="consent_wrong_unit"
        )
    if record.purpose.split() != terms.purpose.split():
        raise ConsentError(
            "the consent was given for another purpose than this unit's: ask the person for this one",
            reason="consent_wrong_purpose",
        )
    if terms.notice is not None and terms.notice != (record.notice_version, record.notice_digest):
        raise ConsentError(
            "the consent names another notice than hangs at this unit: let the person read that one, and ask again",
            reason="consent_wrong_notice",
        )
    if record.age_class != "of_age" and record.guardian_evidence_digest is None:
        raise ConsentError(
            "under 16 a guardian must agree: add the digest of the guardian's evidence", reason="consent_no_guardian"
        )
    if record.expires_at <= record.given_at:
        raise ConsentError("the consent ends before it begins: correct its times", reason="consent_bad_times")
    if record.expires_at - record.given_at > timedelta(days=MAX_CONSENT_DAYS):
        raise ConsentError(f"a consent may last {MAX_CONSENT_DAYS} days at most: shorten it", reason="consent_too_long")
    if record.given_at > now + CLOCK_TOLERANCE:
        raise ConsentError(
            "the consent begins in the future: check this unit's clock, then the record", reason="consent_in_future"
        )
    if record.expires_at <= now:
        raise ConsentError("the consent has expired: ask the person again", reason="consent_expired")


def check_notice(record: ConsentRecord, version: str) -> None:
    """Refuse a consent to another version of the notice than the one that hangs at this unit; raises ConsentError."""
    if record.notice_version != version:
        raise ConsentError(
            "the consent names another version of the notice than hangs at this unit: ask the person again",
            reason="consent_wrong_notice",
        )
