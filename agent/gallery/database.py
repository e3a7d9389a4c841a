# SPDX-License-Identifier: Apache-2.0
"""The gallery's SQLite file: one process, one transaction at a time, and nothing left behind.

``secure_delete`` overwrites deleted content with zeros. That is not enough in WAL mode, where copies stay
in the log, so the journal is a rollback journal that is deleted with each transaction (``DELETE``).
``synchronous=EXTRA`` also makes that deletion durable. What passes through the journal is ciphertext,
random ids and dates. Nor is it enough where SQLite balances its trees: a row that moves to another page leaves
its bytes in the room between the cells (seen once in some 2 000 erasures), so ``rebuild`` writes the whole file
anew after an erasure. ``untidy`` says that this has still to be done, also after a power cut.

Sources: sqlite.org/pragma.html (secure_delete, synchronous), sqlite.org/lockingv3.html, sqlite.org/lang_vacuum.html.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Final

from agent.disk.files import SECRET_MODE, destroy
from agent.disk.process_lock import ProcessLock
from agent.disk.sqlite import SqliteFile
from agent.errors import DamagedError, PosternError, StorageError

SCHEMA_VERSION = 1
BUSY_SECONDS = 2.0  # a backup tool may hold the file for a moment; the process lock keeps other agents out
LOOKED_AT_S: Final = 2.0  # that a unit which starts waits for whoever looks: the doctor opens each reference

# One row in ``gallery``; ``kek`` names the key-encryption key in force. ``expires_at`` and ``last_used_on`` stand in
# clear so that retention needs no key; ``consent`` is the mark of a consent (see ``vault``), so that no two people have
# one. The seals are bound to ``expires_at`` and ``consent``. ``doomed`` is a reason of erasure. ``spent`` are marks of
# consents that may not be used again; it shares no column with ``tombstones``, so that nothing joins the two.
SCHEMA = """
CREATE TABLE gallery (site TEXT NOT NULL, unit TEXT NOT NULL, kek BLOB NOT NULL,
  secret BLOB NOT NULL, consent_key BLOB NOT NULL, untidy INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE subjects (
  id INTEGER PRIMARY KEY, subject BLOB NOT NULL UNIQUE, model TEXT NOT NULL,
  consent BLOB NOT NULL UNIQUE, template BLOB NOT NULL, record BLOB NOT NULL,
  expires_at TEXT NOT NULL, last_used_on TEXT NOT NULL, overdue_since TEXT, doomed TEXT) STRICT;
CREATE TABLE keys (subject BLOB PRIMARY KEY, wrapped BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tombstones (subject TEXT PRIMARY KEY, reason TEXT NOT NULL, erased_at TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE spent (consent BLOB PRIMARY KEY, reason TEXT NOT NULL, until TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


def held_anybody(path: Path) -> bool:
    """Whether the gallery at ``path`` holds or held anybody, also of a running unit; False where it cannot be told."""
    return _peek(path, "SELECT EXISTS (SELECT 1 FROM subjects) OR EXISTS (SELECT 1 FROM tombstones)") == (1,)


def count_references(path: Path, model: str, formerly: str | None) -> int:
    """How many references of ``model`` the gallery at ``path`` holds, likewise; 0 where it cannot be told."""
    found = _peek(path, "SELECT count(*) FROM subjects WHERE model IN (?, ?)", model, formerly or model)
    return 0 if found is None else int(found[0])


def count_others(path: Path, model: str, formerly: str | None) -> int:
    """How many references of other models than ``model`` the gallery at ``path`` holds, likewise."""
    query = "SELECT count(*) FROM subjects WHERE doomed IS NULL AND model NOT IN (?, ?)"
    found = _peek(path, query, model, formerly or model)
    return 0 if found is None else int(found[0])


def _peek(path: Path, query: str, *parameters: object) -> tuple[Any, ...] | None:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as gallery:
            found: tuple[Any, ...] | None = gallery.execute(query, parameters).fetchone()
            return found
    except sqlite3.Error:
        return None


class GalleryFile(SqliteFile):
    """An open gallery file; a transaction is durable."""

    SENTENCE = "the gallery {path} {advice}"
    ADVICE: ClassVar = {
        **dict.fromkeys(
            (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
            "has no room or its disk fails: free space or replace the disk, then try again",
        ),
        **dict.fromkeys(
            (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
            "cannot be written: make the file and its folder writable for this service",
        ),
        **dict.fromkeys(
            (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
            "is held by another program: end that program, then try again",
        ),
    }
    DAMAGED = "is damaged: delete the file and enrol anew, there is no other copy of a reference by design"

    def __init__(self, path: Path, *, wait_s: float = LOOKED_AT_S) -> None:
        """Wait up to ``wait_s`` seconds while another process holds the file, then raise InUseError."""
        super().__init__(path)
        self._lock = ProcessLock(path, wait_s=wait_s)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, SECRET_MODE))
            self.connection = self._open()
        except OSError as error:
            self._lock.release()
            raise StorageError(f"cannot open {path} ({error.strerror}): make its folder writable") from error
        except PosternError:
            self._lock.release()
            raise

    @property
    def is_new(self) -> bool:
        """Whether the schema has still to be made."""
        return self.row("PRAGMA user_version") == (0,)

    def create(self, connection: sqlite3.Connection) -> None:
        """Make the schema; inside a transaction."""
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def rebuild(self) -> None:
        """Write the file anew from its rows; 100 references take a few milliseconds, and their size in memory."""
        with self.explained():
            self.connection.execute("VACUUM")

    def close(self) -> None:
        """Close the file and let other processes in."""
        self.connection.close()
        self._lock.release()

    def _open(self) -> sqlite3.Connection:
        with self.explained():
            # Threads are kept apart by the store's lock.
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                for pragma in (
                    "secure_delete=ON",
                    "journal_mode=DELETE",
                    "synchronous=EXTRA",
                    "temp_store=MEMORY",
                    "trusted_schema=OFF",
                    "cell_size_check=ON",
                ):
                    connection.execute(f"PRAGMA {pragma}")
                self._check(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        if connection.execute("PRAGMA user_version").fetchone()[0] not in (0, SCHEMA_VERSION):
            raise DamagedError(f"{self.path} was written by a newer version of this program: install that one again")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError  # answered as other damage is
        # Reading rolled a hot journal back. One that is there still is cold, and SQLite would leave it with its pages.
        destroy(self.path.with_name(f"{self.path.name}-journal"))
