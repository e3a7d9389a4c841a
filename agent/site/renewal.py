# SPDX-License-Identifier: Apache-2.0
"""When the site's service gives a unit another certificate."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agent.errors import KeyStoreError
from agent.protocol.names import parse_time
from agent.site.authority import ISSUED_LEAF_DAYS, read_certificate, validity
from agent.site.records import CertificateRecord, SiteFiles

RENEW_DAYS: Final = 120  # left of a certificate: two months after it was issued
GAIN_DAYS: Final = 30  # by which another lasts longer: near the end of the service's own, all end with that
LAST_DAYS: Final = 30  # left of a certificate: any gain of a day counts then


def has_to_last(newest: CertificateRecord, files: SiteFiles, now: datetime) -> int:
    """How many days a unit's newest certificate has to last; 0 where another would hardly last longer.

    Without the 0 a service whose own certificate is about to end, with which all end that it issues, would make one
    after the other, until each of those may have to be revoked and a unit can have no more.
    """
    ends, service = parse_time(newest.expires_at), validity(read_certificate(files.issuing_crt))[1]
    gain = (min(now + timedelta(days=ISSUED_LEAF_DAYS), service) - ends).days
    worth = gain >= GAIN_DAYS or (gain >= 1 and (ends - now).days < LAST_DAYS)
    return RENEW_DAYS if worth else 0


def is_ahead(certificate: Path, now: datetime) -> bool:
    """Whether what lies in a file, if it is there, counts from a later time on, or is damaged.

    One that was made by a clock that was ahead is taken by nobody before then, and seems to last longest.
    """
    try:
        return certificate.exists() and validity(read_certificate(certificate))[0] > now
    except KeyStoreError:
        return True


def is_newest(certificate: Path, newest: CertificateRecord) -> bool:
    """Whether the newest certificate lies in a file; a kill after it was put on record leaves the one before there."""
    try:
        return certificate.exists() and f"{read_certificate(certificate).serial_number:x}" == newest.serial
    except KeyStoreError:
        return False


def is_old(newest: CertificateRecord, days: int, *, least: int, now: datetime) -> bool:
    """Whether a unit that tells of ``days`` left should have a newer one: by its end, or as one was issued since."""
    left = (parse_time(newest.expires_at) - now).days
    return left < least or not newest.issued or days < left - 1
