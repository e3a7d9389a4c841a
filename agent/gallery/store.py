# SPDX-License-Identifier: Apache-2.0
"""The gallery: who may be recognised here, kept so that it can be forgotten.

A reference comes to exist by ``enrol`` alone, which checks the consent again; one consent makes one
person's reference, and none any more once that is gone. It ends by ``erase`` on withdrawal, and by
``sweep`` when its consent expires or it lies unused (``ageing`` says by which time). Ending means: it
stops matching at once in every matrix that was handed out, its row and key are overwritten, the key over
all keys is replaced (see ``keyring``), and a signed receipt says so. The wish to erase is made durable
first, so a power cut at any point leaves an erasure that the next start completes.

At rest a reference is what ``template`` describes. In memory it is one row of a float32 matrix. No
picture and no score ever passes through here. Methods may be called from several threads.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, cast

from agent.audit.ageing import Ageing
from agent.errors import ConsentError, RefusedError, StorageError
from agent.gallery.consent import ConsentRecord, Terms, check
from agent.gallery.database import GalleryFile
from agent.gallery.keyring import FileKeyring
from agent.gallery.records import TOMBSTONE_DAYS, EnrolmentRecord, Erased, Held, held
from agent.gallery.references import References
from agent.gallery.retention import Deadline, Retention, due
from agent.gallery.template import Vector, mean_reference
from agent.gallery.vault import Entry, Vault
from agent.protocol.receipt import REASONS, ErasureReason, ErasureReceipt, Sign, issue_receipt
from agent.protocol.subject import SUBJECT_BYTES, SubjectId, subject_digest

# References; from 100 000 people on, China's order 19 art. 15 asks the operator to register. 51 MB of memory.
MAX_SUBJECTS = 100_000
ERASED_AT = "%Y-%m-%dT%H:%M:%SZ"  # of a tombstone and its receipt, UTC


class GalleryStore:
    """References in one SQLite file at ``path``, for one unit and one purpose.

    ``sign`` makes a detached JWS of type ``RECEIPT_TYPE``; ``terms`` are what consents must name. Opening
    completes what a power cut interrupted, and sweeps, unless it is opened to ``look_only``: whoever erases has to tell
    outbox and log of it. Raises StorageError (disk, damage, another process, another
    unit's file) and KeyStoreError (key is gone).
    """

    def __init__(
        self,
        path: Path,
        *,
        keyring: FileKeyring,
        terms: Terms,
        ageing: Ageing,
        sign: Sign,
        retention: Retention | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
        look_only: bool = False,
    ) -> None:
        self._terms = terms
        self._ageing = ageing
        self._sign = sign
        self._retention = retention or Retention()
        self._random = random
        self._lock = threading.RLock()
        self._entries: dict[SubjectId, Entry] = {}
        self._doomed: dict[SubjectId, ErasureReason] = {}
        self._erased: deque[Erased] = deque(maxlen=MAX_SUBJECTS)
        self._withheld: deque[SubjectId] = deque(maxlen=MAX_SUBJECTS)
        self._damaged: frozenset[SubjectId] = frozenset()
        self._latest: References | None = None
        self._issued: list[tuple[weakref.ref[Any], tuple[SubjectId, ...]]] = []
        self._database = GalleryFile(path, wait_s=0) if look_only else GalleryFile(path)
        try:
            self._vault = Vault(self._database, keyring=keyring, site=terms.site, unit=terms.unit, random=random)
            self._load()
            if not look_only:
                self.sweep(ageing.latest())
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many references are held, also those that may not match now; not what a power cut left to be erased."""
        return sum(subject not in self._doomed for subject in self._entries)

    def __contains__(self, subject: object) -> bool:
        return subject in self._entries

    @property
    def damaged(self) -> frozenset[SubjectId]:
        """References that did not open when last read: altered, moved or worn out. They match nobody."""
        return self._damaged

    def unreadable(self) -> int:
        """How many references do not open, of whatever model; opens each of them."""
        with self._lock:
            return self._vault.unopened()

    def of_other_models(self, model: str, formerly: str | None) -> int:
        """How many references ``references`` leaves out because another model made them."""
        with self._lock:
            return sum(entry.model not in (model, formerly) for entry in self._entries.values())

    def close(self) -> None:
        """Close the file; matrices that were handed out stay as they are."""
        with self._lock:
            self._database.close()

    def enrol(
        self, vectors: Sequence[Vector], *, consent: ConsentRecord, model: str, subject: SubjectId | None = None
    ) -> SubjectId:
        """Make a reference of 3 to 5 unit vectors of ``model`` under ``consent``; the subject's id.

        With ``subject`` the reference of that subject is made or replaced, as after a change of the model or when the
        person was enrolled at another unit of the site. Raises ConsentError, CaptureRefusedError, RefusedError (gallery
        full, malformed id) and StorageError; nothing was changed then.
        """
        with self._lock:
            self.admit(consent, subject)
            now = self._ageing.latest()
            reference = mean_reference(vectors)
            subject = SubjectId(self._random(SUBJECT_BYTES)) if subject is None else subject
            entry = Entry(model, Deadline(consent.expires_at.astimezone(UTC), now.date()))
            record = EnrolmentRecord(consent, now, len(vectors))
            replaced = subject in self._entries
            try:
                # What is replaced is destroyed as thoroughly as what is erased.
                with self._vault.new_kek() if replaced else self._database.transaction() as connection:
                    self._forget_old(connection)
                    self._vault.put(connection, subject, entry, reference, record)
            except StorageError:
                self._load()  # a disk may fail just after it has taken everything
                raise
            finally:
                self._exclude({subject})
            self._entries[subject] = entry
            return subject

    def admit(self, consent: ConsentRecord, subject: SubjectId | None = None) -> None:
        """Refuse what ``enrol`` would refuse now, whatever the captures; raises ConsentError and RefusedError."""
        with self._lock:
            check(
                consent, self._terms, now=self._ageing.wall()
            )  # a clock in the past admits no consent that begins later
            check(consent, self._terms, now=self._ageing.latest())
            if subject is not None and len(subject) != SUBJECT_BYTES:
                raise RefusedError(f"a subject id has {SUBJECT_BYTES} bytes: copy it whole", reason="bad_subject")
            if subject is not None and (subject in self._doomed or self._tombstone(subject) is not None):
                raise ConsentError(
                    "this subject was erased and must not return: enrol the person without the old id",
                    reason="subject_erased",
                )
            self._check_unspent(consent, subject)
            if subject not in self._entries and len(self._entries) >= MAX_SUBJECTS:
                raise RefusedError(
                    f"the gallery holds {MAX_SUBJECTS} references: erase some, or use another unit",
                    reason="gallery_full",
                )

    def references(self, model: str, formerly: str | None = None) -> References:
        """Matrix of all references of ``model`` that may match now; ask again for each comparison.

        Templates of another model are left out: their subjects have to be enrolled again. ``formerly`` is another name
        of the same model, which the policy that the site signed says.
        """
        with self._lock:
            if self._latest is None or self._latest.model != model:
                shut = {s for s, entry in self._entries.items() if entry.overdue_since is not None or s in self._doomed}
                subjects, matrix, self._damaged = self._vault.references(
                    model, formerly, size=len(self._entries), without=shut
                )
                self._latest = References(subjects, matrix, model)
                self._issued = [issue for issue in self._issued if issue[0]() is not None]
                self._issued.append((weakref.ref(matrix), self._latest.subjects))
            return self._latest

    def list(self) -> tuple[Held, ...]:
        """Everything that is held, without biometric values; what is ``damaged`` cannot be told."""
        with self._lock:
            return tuple(found for subject in self._entries if (found := self.held(subject)) is not None)

    def held(self, subject: SubjectId) -> Held | None:
        """Answer an access request: what is held about one subject; None when nothing is or it does not open."""
        with self._lock:
            entry, record = self._entries.get(subject), self._vault.record(subject)
            if entry is None or record is None:
                return None
            return held(subject, entry.model, record, entry.deadline, self._retention)

    def matched(self, subject: SubjectId) -> None:
        """Note that the reference was used today. Writes once per subject and day: more would log movements."""
        with self._lock:
            entry = self._entries.get(subject)
            today = self._ageing.latest().date()
            if entry is None or today <= entry.deadline.last_used_on:
                return
            entry.deadline = Deadline(entry.deadline.expires_at, today)
            with self._database.transaction() as connection:
                connection.execute("UPDATE subjects SET last_used_on=? WHERE subject=?", (today.isoformat(), subject))

    def erase(self, subject: SubjectId, *, reason: ErasureReason = "withdrawn") -> ErasureReceipt:
        """Destroy the reference of ``subject`` now. Asking again returns the receipt again.

        Raises RefusedError when there never was such a subject here. After a StorageError the subject matches nobody
        any more, and each ``sweep`` tries again.
        """
        with self._lock:
            if subject in self._entries:
                self._doom({subject: reason})
                self._carry_out()
            tombstone = self._tombstone(subject)
            if tombstone is None:
                raise RefusedError("there is no such subject at this unit: check the id", reason="unknown_subject")
            return tombstone

    def erase_all(self) -> tuple[ErasureReceipt, ...]:
        """Destroy every reference: the unit is taken down, moved, or was tampered with."""
        with self._lock:
            self._doom(dict.fromkeys(self._entries, "wiped"))
            return self._carry_out()

    def sweep(self, now: datetime) -> tuple[ErasureReceipt, ...]:
        """Erase what is past its time, and what an earlier erasure could not finish; call it each second.

        What is past its time at ``now`` matches nobody from here on. It is destroyed once the settled time says so too:
        a clock that jumps destroys nothing.
        """
        with self._lock:
            settled = self._ageing.settled()
            now = max(now, self._ageing.latest())
            past: dict[SubjectId, ErasureReason] = {}
            for subject, entry in self._entries.items():
                reason = None if settled is None else due(entry.deadline, now=settled, retention=self._retention)
                if reason is not None:
                    past[subject] = reason
                else:
                    self._withhold(subject, entry, now)
            self._doom(past)
            return self._carry_out()

    def take_erased(self) -> tuple[Erased, ...]:
        """Hand out, once, who was erased since the last call, at opening too: others who know them must forget them."""
        with self._lock:
            erased = tuple(self._erased)
            self._erased.clear()
            return erased

    def take_withheld(self) -> tuple[SubjectId, ...]:
        """Hand out, once, whose time is over since the last call: nobody is to announce them any more."""
        with self._lock:
            withheld = tuple(self._withheld)
            self._withheld.clear()
            return withheld

    def tombstones(self) -> tuple[str, ...]:
        """Digests of all subjects erased here, to complete after a power cut what others had still to forget."""
        with self._lock:
            return tuple(digest for (digest,) in self._database.rows("SELECT subject FROM tombstones"))

    def model_of(self, subject: SubjectId) -> str | None:
        """Model that made the reference of ``subject``; None when there is none."""
        with self._lock:
            entry = self._entries.get(subject)
            return None if entry is None or subject in self._doomed else entry.model

    def stands_under(self, consent: ConsentRecord) -> bool:
        """Whether somebody's reference was made under ``consent``."""
        with self._lock:
            return self._vault.holder(consent) is not None

    def subjects(self) -> tuple[SubjectId, ...]:
        """Everybody that is held: after a power cut, what others know of anybody else has still to be forgotten."""
        with self._lock:
            return tuple(self._entries)

    def generation(self) -> int:
        """Number in common with the unit's other files; 0 before its first."""
        with self._lock:
            return self._database.generation()

    def stamp(self, number: int) -> None:
        """Carry ``number`` from now on, durably. Raises StorageError."""
        with self._lock, self._database.transaction() as connection:
            self._database.stamp(connection, number)

    def renew(self) -> None:
        """Give every template a new rotation and new keys, without the people; what leaked before fits no longer."""
        with self._lock:
            self._vault.renew()

    def _load(self) -> None:
        self._entries = {}
        for subject, entry, doomed in self._vault.entries():
            self._entries[subject] = entry
            if doomed is not None:
                # A reason that nobody of us wrote is no reason to keep anything.
                self._doomed[subject] = cast("ErasureReason", doomed if doomed in REASONS else "withdrawn")

    def _doom(self, subjects: Mapping[SubjectId, ErasureReason]) -> None:
        """From here on the subjects match nobody, whatever the disk says."""
        if subjects:
            self._doomed = {**subjects, **self._doomed}
            self._exclude(subjects.keys())

    def _carry_out(self) -> tuple[ErasureReceipt, ...]:
        """Erase all that is doomed; their receipts."""
        if not self._doomed:
            return ()
        marks = [(reason, subject) for subject, reason in self._doomed.items()]
        with self._database.transaction() as connection:
            connection.executemany("UPDATE subjects SET doomed=? WHERE subject=?", marks)
        now = self._ageing.latest()
        erased_at = now.strftime(ERASED_AT)
        with self._vault.new_kek() as connection:
            self._forget_old(connection)
            for subject, reason in self._doomed.items():
                self._vault.erase(connection, subject, reason, now)
                connection.execute(
                    "INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?)", (subject_digest(subject), reason, erased_at)
                )
        done, self._doomed = self._doomed, {}
        for subject in done:
            self._entries.pop(subject, None)
        erased = [Erased(subject, receipt) for subject in done if (receipt := self._tombstone(subject)) is not None]
        self._erased.extend(erased)
        return tuple(one.receipt for one in erased)

    def _check_unspent(self, consent: ConsentRecord, subject: SubjectId | None) -> None:
        """Refuse a consent that stands for another person here, or whose reference is gone."""
        holder = self._vault.holder(consent)
        gone = self._vault.spent(consent) if holder is None else self._doomed.get(holder)
        if gone == "withdrawn":
            raise ConsentError(
                "this consent was withdrawn here: only a new one, that the person signs again, counts",
                reason="consent_withdrawn",
            )
        if gone is not None or holder not in (None, subject):
            raise ConsentError(
                "this consent was used here before: each person signs a paper of their own, and for another reference"
                " a new one",
                reason="consent_used",
            )

    def _tombstone(self, subject: SubjectId) -> ErasureReceipt | None:
        """Receipt of an erasure that is complete."""
        digest = subject_digest(subject)
        row = self._database.row("SELECT reason, erased_at FROM tombstones WHERE subject=?", digest)
        if row is None:
            return None
        site, unit = self._terms.site, self._terms.unit
        return issue_receipt(subject=digest, site=site, unit=unit, reason=row[0], erased_at=row[1], sign=self._sign)

    def _exclude(self, excluded: AbstractSet[SubjectId]) -> None:
        """Blank their rows in every matrix that somebody still holds, and have the next one made anew."""
        for matrix, subjects in self._issued:
            alive = matrix()
            if alive is not None:
                alive[[row for row, subject in enumerate(subjects) if subject in excluded]] = 0
        self._latest = None

    def _forget_old(self, connection: sqlite3.Connection) -> None:
        """Drop tombstones and spent consents whose time is over: only the settled time takes away what protects."""
        settled = self._ageing.settled()
        if settled is None:
            return
        connection.execute(
            "DELETE FROM tombstones WHERE erased_at < ?",
            ((settled - timedelta(days=TOMBSTONE_DAYS)).strftime(ERASED_AT),),
        )
        self._vault.forget_spent(connection, settled)

    def _withhold(self, subject: SubjectId, entry: Entry, now: datetime) -> None:
        """Keep a reference that is past its time by the wall clock from matching, for as long as it is."""
        is_due = due(entry.deadline, now=now, retention=self._retention) is not None
        if is_due != (entry.overdue_since is not None):
            self._set_overdue(subject, entry, now if is_due else None)

    def _set_overdue(self, subject: SubjectId, entry: Entry, since: datetime | None) -> None:
        entry.overdue_since = since
        if since is not None:
            self._withheld.append(subject)
        self._exclude({subject})
        text = None if since is None else since.isoformat()
        with self._database.transaction() as connection:
            connection.execute("UPDATE subjects SET overdue_since=? WHERE subject=?", (text, subject))
