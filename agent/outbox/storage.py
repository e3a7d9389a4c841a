# SPDX-License-Identifier: Apache-2.0
"""The outbox's file: one SQLite database that one process owns, and a reserve for the day the disk is full.

Write-ahead logging with ``synchronous=FULL``: a commit is one sequential write and one fsync, and after a
power cut the database holds exactly the commits that returned (sqlite.org/wal.html, pragma.html). The
lock is exclusive, because two agents with one unit's key would sign two histories. ``secure_delete``
overwrites removed rows; ``tidy`` also empties the log, where older page images stay until then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.disk.files import SECRET_MODE
from agent.disk.sqlite import OwnedFile
from agent.errors import DamagedError, StorageError

APPLICATION_ID = 0x506F6F62  # "Poob", so that another program's database is not taken for ours
SCHEMA_VERSION = 2  # 1 kept nothing that the broker had taken
LOG_PAGES = 256  # write-ahead log before it is copied into the database: 1 MiB bounds both space and old images
RESERVE_BYTES = 2 * 1024 * 1024  # room for a full log to reach the database, twice: enough to drain a full disk

_SCHEMA = """
CREATE TABLE head (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    source TEXT NOT NULL,
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    run TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    created TEXT NOT NULL,
    owner BLOB,
    loss TEXT,
    due_ns INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT
) STRICT;
CREATE INDEX due ON event (due_ns, seq);
CREATE INDEX oldest ON event (kind, seq) WHERE loss IS NULL;
CREATE UNIQUE INDEX report ON event (loss) WHERE loss IS NOT NULL;
CREATE TABLE lost (
    reason TEXT PRIMARY KEY,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL
) STRICT;
"""
_KEPT = """
CREATE TABLE kept (
    seq INTEGER PRIMARY KEY,
    payload BLOB NOT NULL,
    owner BLOB,
    taken_s INTEGER NOT NULL
) STRICT;
CREATE INDEX kept_taken ON kept (taken_s);
CREATE TABLE kept_size (id INTEGER PRIMARY KEY CHECK (id = 0), rows INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
INSERT INTO kept_size VALUES (0, 0, 0);
CREATE TRIGGER kept_more AFTER INSERT ON kept BEGIN
    UPDATE kept_size SET rows = rows + 1, bytes = bytes + length(new.payload);
END;
CREATE TRIGGER kept_less AFTER DELETE ON kept BEGIN
    UPDATE kept_size SET rows = rows - 1, bytes = bytes - length(old.payload);
END;
"""


class OutboxFile(OwnedFile):
    """An exclusive connection. Not thread-safe: the outbox serialises its calls."""

    SENTENCE = "the outbox {path} cannot be used: {advice}"
    DAMAGED = (
        "it is damaged: move it away for an examiner, it alone, and what waited in it is lost; the unit leaves out the"
        " numbers that it may have used, and asks the site to confirm"
    )
    UNUSABLE = "the outbox {path} cannot be used ({reason}): make its folder exist and writable"

    def __init__(self, path: Path) -> None:
        """Open or create; StorageError when it is held, damaged, foreign or cannot be written."""
        super().__init__(path)
        self._reserve = path.with_name(path.name + ".reserve")
        self.keep_reserve()

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        if self.path.stat().st_size == 0:
            execute("PRAGMA auto_vacuum = INCREMENTAL")  # ``tidy`` gives the space of an outage back
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        execute("PRAGMA secure_delete = ON")
        execute("PRAGMA synchronous = FULL")
        if execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            self.connection.executescript(
                f"BEGIN EXCLUSIVE; {_SCHEMA} {_KEPT} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        found = (execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0])
        if found == (APPLICATION_ID, 1):  # of a release before
            self.connection.executescript(f"BEGIN EXCLUSIVE; {_KEPT} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            found = (APPLICATION_ID, SCHEMA_VERSION)
        if found != (APPLICATION_ID, SCHEMA_VERSION):
            raise DamagedError(f"{self.path} is not an outbox of this version: give the path of the unit's outbox")
        if execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError  # answered as other damage is

    @contextlib.contextmanager
    def commit(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction; when ``durable`` it is on disk before this returns, else before the next durable one."""
        with self.explained():
            self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        with self.transaction() as connection:
            yield connection

    def tidy(self) -> None:
        """Shrink the file, move the log into it and empty the log, so that removed rows leave no image anywhere."""
        with self.explained():
            # A script, because ``execute`` makes one step of it and one step frees one page.
            self.connection.executescript("PRAGMA incremental_vacuum")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.keep_reserve()

    def keep_reserve(self) -> None:
        """Hold space back for ``use_reserve``; without space there is none, and nothing else changes."""
        if self._reserve.exists():
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self._reserve, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, SECRET_MODE)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            except OSError:
                self._reserve.unlink()
                raise
            finally:
                os.close(descriptor)

    def has_reserve(self) -> bool:
        """Whether space is still held back: while there is none, the disk is full."""
        return self._reserve.exists()

    def use_reserve(self) -> bool:
        """Give the reserve to the database when the disk is full; false when it was already used."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Empty the log and let go of the file."""
        with self.explained():
            self.connection.close()


def is_full(error: StorageError) -> bool:
    """Whether a full disk was the cause, of the database or of a file beside it."""
    cause = error.__cause__
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL or (
        isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    )
