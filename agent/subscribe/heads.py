# SPDX-License-Identifier: Apache-2.0
"""What units say of themselves in ``health``: where their chains end, so that a withheld tail is noticed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec

from agent.errors import VerificationError
from agent.keys import read_header
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.health import MAX_HEALTH_BYTES, Health, read_health, verify_health
from agent.protocol.names import TOPIC_ROOT, Boot, Name, Time
from agent.protocol.trust import TrustedUnits

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]
AuditCount = Annotated[int, msgspec.Meta(ge=0, lt=10**16)]


class HeadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is remembered of a unit's health: its newest report, where the audit log ended, and what was told."""

    unit: Name
    boot: Boot
    uptime_s: Count
    time: Time
    audit: AuditCount
    withheld: Count


def check_health(topic: str, payload: bytes, trust: TrustedUnits, now: datetime) -> tuple[str, str, Health]:
    """Verify a document: the unit, the id of its key, and what it says; VerificationError when it is not the unit's."""
    parts = topic.split("/")
    if len(parts) != 4 or parts[:2] != [TOPIC_ROOT, trust.site] or parts[3] != "health":
        raise VerificationError("wrong_topic", "this is not the topic of a unit's health")
    if len(payload) > MAX_HEALTH_BYTES:
        raise VerificationError("too_large", f"a health document is never longer than {MAX_HEALTH_BYTES} bytes")
    _, claimed = read_health(payload)
    if claimed.sig is None:
        raise VerificationError("unsigned", "the health document has no signature")
    trusted = trust.find(read_header(claimed.sig).kid)
    if trusted is None:
        raise VerificationError("unknown_unit", "the site does not list the key of this health document")
    if trusted.unit != parts[2]:
        raise VerificationError("wrong_unit", f"the health of unit {trusted.unit} came on another unit's topic")
    report = verify_health(payload, trusted.key, source=f"/{TOPIC_ROOT}/{trust.site}/{trusted.unit}")
    if trust.expired_at(now):
        raise VerificationError("expired", "the site's list of units has ended: fetch the new one")
    if not trusted.counts_at(now) or trusted.until is not None:
        raise VerificationError("revoked", f"the key of unit {trusted.unit} no longer counts")
    return trusted.unit, trusted.key.kid, report


NOTICE_DAYS = 30  # of a certificate that is left
NOTICE_WEEKS = 1  # of epoch keys that are left, this one included


class Heads:
    """The newest health of each unit, and what is to be told about it: once for each change."""

    def __init__(self, records: Iterable[HeadRecord] = ()) -> None:
        self._heads = {record.unit: record for record in records}
        self._changed: set[str] = set()
        self._soon: dict[str, tuple[int | None, int | None]] = {}

    def note(self, unit: str, report: Health, withheld: int | None) -> list[str]:
        """Remember a verified report; sentences to tell. One that came late or again says nothing."""
        if not self.is_newer(unit, report):
            return []
        before = self._heads.get(unit)
        audit = before.audit if before is not None else 0
        told: list[str] = []
        if report.audit is not None:
            audit = _entries(report.audit)
            if before is not None and audit < before.audit:
                told.append(
                    f"the audit log of unit {unit} went back from entry {before.audit} to {audit}:"
                    " entries were taken away, or an older card was put in"
                )
        known = before.withheld if before is not None else 0
        withheld = known if withheld is None else withheld
        if withheld > 0 and withheld != known:
            told.append(
                f"{withheld} events of unit {unit} were withheld: it signed number {report.head.seq},"
                " and what is not here does not wait there either"
            )
        elif withheld == 0 and known > 0:
            told.append(f"the events of unit {unit} that were withheld have come, or the unit owned up to their loss")
        told += self._running_out(unit, report)
        self._heads[unit] = HeadRecord(unit, report.boot, report.uptime_s, report.time, audit, withheld)
        self._changed.add(unit)
        return told

    def is_newer(self, unit: str, report: Health) -> bool:
        """Whether a verified report is newer than all that came; one that a broker repeats, or kept back, is not."""
        before = self._heads.get(unit)
        return before is None or _is_newer(report, before)

    def _running_out(self, unit: str, report: Health) -> list[str]:
        """What of a unit ends soon, once for each change while this runs."""
        soon = (
            report.certificate_days if (report.certificate_days or 0) <= NOTICE_DAYS else None,
            report.epochs if (report.epochs or 0) <= NOTICE_WEEKS else None,
        )
        if soon == self._soon.get(unit, (None, None)):
            return []
        self._soon[unit] = soon
        days, weeks = soon
        told = []
        if days is not None:
            told.append(f"the certificate of unit {unit} ends in {days} days: postern site renew-unit {unit}")
        if weeks is not None:
            told.append(
                f"unit {unit} has epoch keys for {weeks} weeks: postern site issue-keys {unit}, then key/rotate"
            )
        return told

    def withheld(self) -> dict[str, int]:
        """How many events each unit signed that are neither here nor waiting there, where there are any."""
        return {unit: record.withheld for unit, record in sorted(self._heads.items()) if record.withheld}

    def take_changed(self) -> list[HeadRecord]:
        """Write down what changed since the last call."""
        changed, self._changed = self._changed, set()
        return [self._heads[unit] for unit in changed]


def _is_newer(report: Health, before: HeadRecord) -> bool:
    if report.boot == before.boot:
        return report.uptime_s > before.uptime_s
    # Each start goes on with the audit log, whatever time it was; without one the time has to do.
    went_on = report.audit is not None and _entries(report.audit) > before.audit
    return went_on or report.time > before.time


def _entries(audit: str) -> int:
    return int(audit.partition(":")[0])
