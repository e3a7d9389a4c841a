# SPDX-License-Identifier: Apache-2.0
"""The one way to erase a person, for every caller: command line, signed command, sweep and start.

In this order: the gallery (from then on the person matches nowhere, and a tombstone is durable), whoever decides at
this moment, a note in the log that somebody was erased, the events that wait, when they used a rule, and what the log
says of them. The tombstones are the record of whom: a power cut in between leaves only work that ``settle`` completes
at the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import cast

from agent.audit.log import AuditLog
from agent.door.rights import Rights
from agent.errors import PosternError
from agent.gallery.records import Erased
from agent.gallery.store import GalleryStore
from agent.outbox.queue import Outbox
from agent.protocol.receipt import REASONS, ErasureReason, ErasureReceipt
from agent.protocol.subject import SubjectId, subject_digest


def owner_of(subject: SubjectId) -> bytes:
    """Name by which the outbox knows a subject: its tombstone holds the same, after the id itself is gone."""
    return subject_digest(subject).encode()


def _raise(error: PosternError) -> None:
    raise error


class Forgetting:
    """Erases in gallery, outbox, audit log and used rights of one unit. Thread-safe as far as those four are.

    ``on_withheld`` gets whose time is over by the wall clock while the settled time does not say so yet; ``on_erased``
    gets each person once, before the outbox forgets them; ``on_done`` is called once all have forgotten
    them, and may raise PosternError; ``on_problem`` gets what kept the note from
    being written, which stops nothing else (by default it is raised).
    """

    def __init__(
        self,
        gallery: GalleryStore,
        outbox: Outbox,
        audit: AuditLog,
        rights: Rights,
        *,
        on_erased: Callable[[Erased], None] = lambda _: None,
        on_withheld: Callable[[SubjectId], None] = lambda _: None,
        on_done: Callable[[], None] = lambda: None,
        on_problem: Callable[[PosternError], None] = _raise,
    ) -> None:
        self._gallery, self._outbox, self._audit, self._rights = gallery, outbox, audit, rights
        self._on_withheld = on_withheld
        self._on_erased, self._on_done, self._on_problem = on_erased, on_done, on_problem
        self._lock = threading.RLock()  # commands and the sweep run on two threads
        self._owed: list[Erased] = []  # erased from the gallery, not yet from outbox and log: a full disk kept it

    def settle(self, *, doubted: bool = False) -> None:
        """Complete what was cut off: outbox and log forget everybody whom the gallery has erased. May be repeated.

        Where files are ``doubted`` to be the newest, the gallery forgets everybody whom the log says was erased: a
        backup from before that erasure may have been put back. Else the log forgets whom the gallery never came to
        hold, because an enrolment was cut short. Raises StorageError, and then what is left is done the next time.
        """
        if doubted:
            erased = self._audit.erased()
            for subject in self._gallery.subjects():
                if (digest := subject_digest(subject)) in erased:
                    reason = erased[digest]  # one that nobody of us wrote is no reason to keep anything
                    self._gallery.erase(subject, reason=cast("ErasureReason", reason if reason in REASONS else "wiped"))
        tombstones = self._gallery.tombstones()
        self._outbox.erase(*(digest.encode() for digest in tombstones))
        self._rights.erase(*tombstones)
        for digest in tombstones:
            self._audit.forget_digest(digest)
        if not doubted:
            self._audit.forget_others(self._gallery.subjects())
        self._pass_on()

    def erase(self, subject: SubjectId) -> ErasureReceipt:
        """Erase one person who withdrew; asking again returns the receipt again. Raises as ``GalleryStore.erase``."""
        receipt = self._gallery.erase(subject)
        self._pass_on()
        return receipt

    def erase_all(self) -> tuple[ErasureReceipt, ...]:
        """Erase everybody: the unit is taken down, moved, or was tampered with. Raises StorageError."""
        receipts = self._gallery.erase_all()
        self._pass_on()
        return receipts

    def sweep(self, now: datetime) -> None:
        """Erase whoever is past their time, and what an earlier erasure could not finish. Raises StorageError."""
        self._gallery.sweep(now)
        self._pass_on()

    def once_more(self, subject: SubjectId) -> None:
        """Drop the events about somebody erased that were being queued meanwhile. Raises StorageError."""
        self._outbox.erase(owner_of(subject))
        self._rights.erase(subject_digest(subject))

    def _pass_on(self) -> None:
        """Make all others forget whom the gallery has erased; what a full disk refuses is owed until the next call."""
        problems: list[PosternError] = []
        for subject in self._gallery.take_withheld():
            self._on_withheld(subject)
        with self._lock:
            for one in self._gallery.take_erased():
                self._owed.append(one)
                self._on_erased(one)
                try:
                    self._note(one.receipt)
                except PosternError as error:
                    problems.append(error)
            if self._owed:  # hardly ever: the disk is left alone
                self._outbox.erase(*(owner_of(one.subject) for one in self._owed))
                self._rights.erase(*(subject_digest(one.subject) for one in self._owed))
                while self._owed:
                    self._audit.forget(self._owed[0].subject)
                    self._owed.pop(0)
                try:
                    self._on_done()
                except PosternError as error:
                    problems.append(error)
        for problem in problems:
            self._on_problem(problem)

    def _note(self, receipt: ErasureReceipt) -> None:
        """Write down that a consent was withdrawn, if it was, and that somebody was erased; not who."""
        if receipt.reason == "withdrawn":
            self._audit.append("consent_withdrawn", {"subject": receipt.subject})
        self._audit.append("erased", {"subject": receipt.subject, "reason": receipt.reason})
