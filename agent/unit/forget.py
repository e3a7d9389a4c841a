# SPDX-License-Identifier: Apache-2.0
"""Everywhere but the gallery: who was erased there has to be forgotten by the outbox and the audit log, and noted.

The gallery's tombstones are the record of whom. They are durable before anything else forgets, so a power cut in
between leaves only work that ``settle`` completes at the next start.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.audit.log import AuditLog
from agent.gallery.records import Erased
from agent.gallery.store import GalleryStore
from agent.outbox.queue import Outbox
from agent.protocol.receipt import ErasureReceipt
from agent.subject import SubjectId, subject_digest


def owner_of(subject: SubjectId) -> bytes:
    """Name by which the outbox knows a subject: its tombstone holds the same, after the id itself is gone."""
    return subject_digest(subject).encode()


def settle(gallery: GalleryStore, outbox: Outbox, audit: AuditLog) -> None:
    """Make outbox and log forget everybody whom the gallery has erased; may be repeated.

    The log also forgets whom the gallery never came to hold, because an enrolment was cut short.

    Raises StorageError, and then what is left is done the next time.
    """
    tombstones = gallery.tombstones()
    outbox.erase(*(digest.encode() for digest in tombstones))
    for digest in tombstones:
        audit.forget_digest(digest)
    audit.forget_others(gallery.subjects())


def pass_on(gallery: GalleryStore, outbox: Outbox, audit: AuditLog, on_erased: Callable[[Erased], None]) -> None:
    """Make outbox and log forget whom the gallery has erased since the last call; ``on_erased`` gets each of them once.

    Raises StorageError, and then ``settle`` does what is left.
    """
    erased = gallery.take_erased()
    if not erased:  # as at nearly every look: the disk is left alone
        return
    for one in erased:
        on_erased(one)
    outbox.erase(*(owner_of(one.subject) for one in erased))
    for one in erased:
        audit.forget(one.subject)


def note(audit: AuditLog, receipt: ErasureReceipt) -> None:
    """Write down that a consent was withdrawn, if it was, and that somebody was erased; not who."""
    if receipt.reason == "withdrawn":
        audit.append("consent_withdrawn", {"subject": receipt.subject})
    audit.append("erased", {"subject": receipt.subject, "reason": receipt.reason})
