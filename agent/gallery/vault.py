# SPDX-License-Identifier: Apache-2.0
"""Between the gallery's clear numbers and its file: everything that is sealed is sealed and opened here.

The database names the key-encryption key in force. It is read from there each time instead of being
remembered, because a write that failed at the very end may have been committed after all.

A consent is known by its mark: HMAC-SHA-256 of the digest of what was signed, under a random key of this
gallery. The rest of the record is typed by the operator and could be typed anew, while no two people sign
one paper. Without the key a mark tells nothing, and two units' marks of one consent have nothing in common.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.embed.records import EMBEDDING_DIM
from agent.errors import DamagedError
from agent.gallery.consent import MAX_CONSENT_BYTES, ConsentRecord
from agent.gallery.database import GalleryFile
from agent.gallery.keyring import FileKeyring
from agent.gallery.records import TOMBSTONE_DAYS, EnrolmentRecord
from agent.gallery.retention import Deadline
from agent.gallery.template import KEY_BYTES, VECTOR_BYTES, Vector, place, rotate, seal, unrotate, unseal
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.subject import SubjectId

MAX_RECORD_BYTES = 2 * MAX_CONSENT_BYTES  # of what is sealed beside a template: the consent, and when
REWRAP_ROWS = 1000  # keys wrapped anew at a time, so that a large gallery needs little memory for it

_SEALED = """
SELECT subject, model, expires_at, consent, template, record, wrapped FROM subjects LEFT JOIN keys USING (subject)
WHERE doomed IS NULL
"""


class _Row(NamedTuple):
    subject: SubjectId
    model: str
    expires_at: str
    consent: bytes
    template: bytes
    record: bytes
    wrapped: bytes | None


class Entry(msgspec.Struct):
    """What is known of a reference without opening it."""

    model: str
    deadline: Deadline
    overdue_since: datetime | None = None


class Vault:
    """The sealed rows of one unit's gallery. Its caller keeps threads apart."""

    def __init__(
        self, database: GalleryFile, *, keyring: FileKeyring, site: str, unit: str, random: Callable[[int], bytes]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._site = site
        self._unit = unit
        self._random = random
        if database.is_new:
            self._create()
        found = database.row("SELECT site, unit FROM gallery")
        if found != (site, unit):
            raise DamagedError("this gallery belongs to another unit: put that unit's file away and start with none")
        keyring.settle(self._kek())
        self._tidy()
        self._secret()
        self._consent_key()  # bound to the unit: a file that was made to look like this unit's is found here

    def entries(self) -> Iterator[tuple[SubjectId, Entry, str | None]]:
        """Every row that is in the file: its subject, what is known of it, and why it is doomed, if it is."""
        query = "SELECT subject, model, expires_at, last_used_on, overdue_since, doomed FROM subjects"
        for subject, model, expires_at, last_used_on, overdue_since, doomed in self._database.rows(query):
            try:
                deadline = Deadline(_time(expires_at), date.fromisoformat(last_used_on))
                overdue = None if overdue_since is None else _time(overdue_since)
            except ValueError as error:
                raise DamagedError("a date in the gallery is damaged: delete the file and enrol anew") from error
            yield SubjectId(subject), Entry(model, deadline, overdue), doomed

    def put(
        self,
        connection: sqlite3.Connection,
        subject: SubjectId,
        entry: Entry,
        reference: Vector,
        record: EnrolmentRecord,
    ) -> None:
        """Write a reference under a key of its own, in place of any other of the subject; a former consent is spent."""
        consent = self._mark(record.consent)
        self._spend(connection, subject, "replaced", record.enrolled_at, unless=consent)
        self._remove(connection, subject)
        dek = self._random(KEY_BYTES)
        expires_at, last_used_on = entry.deadline.expires_at.isoformat(), entry.deadline.last_used_on.isoformat()
        overdue_since = None if entry.overdue_since is None else entry.overdue_since.isoformat()
        rotated = rotate(reference, self._secret(), subject).astype("<f4").tobytes()
        contents = ((b"template", rotated), (b"record", msgspec.json.encode(record)))
        template, sealed_record = (
            seal(
                content,
                key=dek,
                place=self._place(kind, subject, entry.model, expires_at, consent),
                random=self._random,
            )
            for kind, content in contents
        )
        connection.execute(
            "INSERT INTO subjects (subject, model, consent, template, record, expires_at, last_used_on, overdue_since)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (subject, entry.model, consent, template, sealed_record, expires_at, last_used_on, overdue_since),
        )
        wrapped = self._keyring.wrap(self._kek(), dek, self._key_place(subject))
        connection.execute("INSERT INTO keys (subject, wrapped) VALUES (?, ?)", (subject, wrapped))

    def erase(self, connection: sqlite3.Connection, subject: SubjectId, reason: str, now: datetime) -> None:
        """Overwrite a reference and its key in the file, if they are there; its consent is spent."""
        self._spend(connection, subject, reason, now)
        self._remove(connection, subject)

    def holder(self, consent: ConsentRecord) -> SubjectId | None:
        """Whose reference stands under ``consent``."""
        row = self._database.row("SELECT subject FROM subjects WHERE consent=?", self._mark(consent))
        return None if row is None else SubjectId(row[0])

    def spent(self, consent: ConsentRecord) -> str | None:
        """Why ``consent`` may not be used again: ``replaced``, or for what the reference under it was erased."""
        row = self._database.row("SELECT reason FROM spent WHERE consent=?", self._mark(consent))
        return None if row is None else str(row[0])

    def forget_spent(self, connection: sqlite3.Connection, now: datetime) -> None:
        """Forget the consents whose time as spent ones is over."""
        connection.execute("DELETE FROM spent WHERE until < ?", (now.date().isoformat(),))

    def _spend(
        self, connection: sqlite3.Connection, subject: SubjectId, reason: str, now: datetime, unless: bytes = b""
    ) -> None:
        """Let the consent of ``subject`` never be used again: as long as the tombstone lasts or the consent would have.

        To the day, because the second would tell which tombstone belongs to it.
        """
        until = (now + timedelta(days=TOMBSTONE_DAYS)).date().isoformat()
        connection.execute(
            "INSERT OR REPLACE INTO spent SELECT consent, ?, max(substr(expires_at, 1, 10), ?) FROM subjects"
            " WHERE subject=? AND consent<>?",
            (reason, until, subject, unless),
        )

    def _remove(self, connection: sqlite3.Connection, subject: SubjectId) -> None:
        connection.execute("DELETE FROM subjects WHERE subject=?", (subject,))
        connection.execute("DELETE FROM keys WHERE subject=?", (subject,))

    def record(self, subject: SubjectId) -> EnrolmentRecord | None:
        """Open what was agreed; None when there is no such row or it does not open."""
        row = self._database.row(f"{_SEALED} AND subject=?", subject)
        return None if row is None else self._open_record(self._kek(), _Row(*row))

    def references(
        self, model: str, formerly: str | None, *, size: int, without: AbstractSet[SubjectId]
    ) -> tuple[tuple[SubjectId, ...], NDArray[np.float32], frozenset[SubjectId]]:
        """Open the templates of ``model``: subjects, float32 (n, 128) unit rows, and those that did not open.

        ``size`` is how many rows there are at most; the subjects in ``without`` stay shut.
        """
        kek = self._kek()
        matrix = np.zeros((size, EMBEDDING_DIM), np.float32)
        subjects: list[SubjectId] = []
        damaged: set[SubjectId] = set()
        for row in self._database.rows(f"{_SEALED} AND model IN (?, ?)", model, formerly or model):
            subject = SubjectId(row[0])
            if subject in without:
                continue
            rotated = self._open_template(kek, _Row(*row))
            if rotated is None:
                damaged.add(subject)
            else:
                matrix[len(subjects)] = rotated
                subjects.append(subject)
        if len(subjects) < size:
            matrix = matrix[: len(subjects)].copy()
        unrotate(matrix, self._secret(), subjects)
        return tuple(subjects), matrix, frozenset(damaged)

    def unopened(self) -> int:
        """How many rows do not open, in their record or in their template: altered, moved or worn out."""
        kek, count = self._kek(), 0
        for row in self._database.rows(_SEALED):
            template = self._open_template(kek, _Row(*row))
            count += template is None or self._open_record(kek, _Row(*row)) is None
            if template is not None:
                template.fill(0)
        return count

    @contextmanager
    def new_kek(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction at whose end every key is wrapped by a new KEK, the old one destroyed, the file new."""
        self._keyring.settle(self._kek())
        fresh = self._keyring.prepare()
        with self._database.transaction() as connection:
            yield connection
            self._rewrap(connection, self._kek(), fresh)
            connection.execute("UPDATE gallery SET untidy=1")
        self._keyring.settle(fresh)
        self._tidy()

    def renew(self) -> None:
        """Turn every template by a new secret and seal it under new keys; what does not open stays shut for good."""
        with self.new_kek() as connection:
            kek, old = self._kek(), self._secret()
            self._put_keys(connection, kek, self._random(KEY_BYTES), self._consent_key())
            for subject, entry, doomed in list(self.entries()):
                row = self._database.row(f"{_SEALED} AND subject=?", subject)
                if row is None or doomed:
                    continue
                record, rotated = self._open_record(kek, _Row(*row)), self._open_template(kek, _Row(*row))
                if record is None or rotated is None:
                    continue
                reference = rotated[np.newaxis]
                unrotate(reference, old, [subject])
                self.put(connection, subject, entry, reference[0], record)

    def _tidy(self) -> None:
        """Rid the file of what moved rows left behind, if an erasure has not yet."""
        if self._database.row("SELECT untidy FROM gallery") == (1,):
            self._database.rebuild()
            with self._database.transaction() as connection:
                connection.execute("UPDATE gallery SET untidy=0")

    def _create(self) -> None:
        kek = self._keyring.prepare()
        with self._database.transaction() as connection:
            self._database.create(connection)
            connection.execute(
                "INSERT INTO gallery (site, unit, kek, secret, consent_key) VALUES (?, ?, ?, ?, ?)",
                (self._site, self._unit, kek, b"", b""),
            )
            self._put_keys(connection, kek, self._random(KEY_BYTES), self._random(KEY_BYTES))

    def _rewrap(self, connection: sqlite3.Connection, old: bytes, new: bytes) -> None:
        secret, consent_key = self._secret(), self._consent_key()
        last = b""
        page = "SELECT subject, wrapped FROM keys WHERE subject > ? ORDER BY subject LIMIT ?"
        while rows := list(self._database.rows(page, last, REWRAP_ROWS)):
            last = rows[-1][0]
            rewrapped = []
            for subject, wrapped in rows:
                where = self._key_place(subject)
                dek = self._keyring.unwrap(old, wrapped, where)
                if dek is not None:  # a key that does not open now would not open under any other
                    rewrapped.append((self._keyring.wrap(new, dek, where), subject))
            connection.executemany("UPDATE keys SET wrapped=? WHERE subject=?", rewrapped)
        connection.execute("UPDATE gallery SET kek=?", (new,))
        self._put_keys(connection, new, secret, consent_key)

    def _kek(self) -> bytes:
        row = self._database.row("SELECT kek FROM gallery")
        if row is None:
            raise DamagedError("the gallery has lost its head row: delete the file and enrol anew")
        kek: bytes = row[0]
        return kek

    def _secret(self) -> bytes:
        return self._unwrapped(b"secret", "SELECT secret FROM gallery")

    def _consent_key(self) -> bytes:
        return self._unwrapped(b"consent_key", "SELECT consent_key FROM gallery")

    def _unwrapped(self, kind: bytes, query: str) -> bytes:
        row = self._database.row(query)
        content = None if row is None else self._keyring.unwrap(self._kek(), row[0], place(kind, self._unit.encode()))
        if content is None:
            raise DamagedError("the gallery's secret was altered: delete the file and enrol anew")
        return content

    def _put_keys(self, connection: sqlite3.Connection, kek: bytes, secret: bytes, consent_key: bytes) -> None:
        contents = ((b"secret", secret), (b"consent_key", consent_key))
        wrapped = [self._keyring.wrap(kek, content, place(kind, self._unit.encode())) for kind, content in contents]
        connection.execute("UPDATE gallery SET secret=?, consent_key=?", wrapped)

    def _mark(self, consent: ConsentRecord) -> bytes:
        message = b"postern/consent/v1" + consent.evidence_digest.encode()
        return hmac.digest(self._consent_key(), message, hashlib.sha256)

    def _open_template(self, kek: bytes, row: _Row) -> Vector | None:
        """Rotated float32 (128,) template, or None."""
        content = self._open(kek, row, b"template", row.template)
        if content is None or len(content) != VECTOR_BYTES:
            return None
        return np.frombuffer(content, "<f4").astype(np.float32)

    def _open_record(self, kek: bytes, row: _Row) -> EnrolmentRecord | None:
        content = self._open(kek, row, b"record", row.record)
        try:
            return None if content is None else decode(content, EnrolmentRecord, MAX_RECORD_BYTES)
        except StrictJsonError:
            return None

    def _open(self, kek: bytes, row: _Row, kind: bytes, sealed: bytes) -> bytes | None:
        if row.wrapped is None:
            return None
        dek = self._keyring.unwrap(kek, row.wrapped, self._key_place(row.subject))
        where = self._place(kind, row.subject, row.model, row.expires_at, row.consent)
        return None if dek is None else unseal(sealed, key=dek, place=where)

    def _place(self, kind: bytes, subject: SubjectId, model: str, expires_at: str, consent: bytes) -> bytes:
        return place(kind, subject, model.encode(), expires_at.encode(), consent, self._unit.encode())

    def _key_place(self, subject: bytes) -> bytes:
        return place(b"key", subject, self._unit.encode())


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without an offset")
    return time
