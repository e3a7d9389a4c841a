# SPDX-License-Identifier: Apache-2.0
"""A subscriber's memory: one SQLite file with chains, health, and events that may not have been handed over.

What a batch of messages changed is one transaction, on disk before any of its events is handed over: write-ahead
log, ``synchronous=FULL``. One process writes; others may look at what is missing. The JSON file of releases before
is read once, and a database takes its place.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from agent.disk.files import SECRET_MODE, fsync_folder, read_bounded, replace
from agent.disk.process_lock import ProcessLock
from agent.disk.put_back import Mark
from agent.errors import DamagedError, KeyStoreError, StorageError
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.trust_file import SeenList, TrustFile
from agent.subscribe.chain import DAMAGED, MAX_STATE_BYTES, ChainRecord, read_chains
from agent.subscribe.heads import HeadRecord
from agent.subscribe.verify import Loss, VerifiedEvent

__all__ = ["Kept", "StateFile", "TrustFile"]  # a subscriber's two files

APPLICATION_ID = 0x506F7375  # "Posu"
SCHEMA_VERSION = 1
MAGIC = b"SQLite format 3\0"

_SCHEMA = """
CREATE TABLE chain (
    number INTEGER PRIMARY KEY, source TEXT NOT NULL, kid TEXT NOT NULL, record BLOB NOT NULL, UNIQUE (source, kid)
) STRICT;
CREATE TABLE head (unit TEXT PRIMARY KEY, record BLOB NOT NULL) STRICT;
CREATE TABLE event (number INTEGER PRIMARY KEY AUTOINCREMENT, facts BLOB NOT NULL, perhaps INTEGER NOT NULL) STRICT;
"""
# Beside the others, so that a release before still opens the file.
_LISTS = "CREATE TABLE IF NOT EXISTS list (id INTEGER PRIMARY KEY CHECK (id = 0), record BLOB NOT NULL) STRICT"
_CHAIN = "INSERT OR REPLACE INTO chain (source, kid, record) VALUES (?, ?, ?)"  # the newest number: used last

LOSS = b'{"loss":'  # how a loss begins, among events

T = TypeVar("T")


class Kept(NamedTuple):
    """What a subscriber goes on with; ``events`` were taken, and perhaps not handed over."""

    chains: tuple[ChainRecord, ...] = ()
    heads: tuple[HeadRecord, ...] = ()
    events: tuple[tuple[int, VerifiedEvent | Loss], ...] = ()
    newest: SeenList | None = None  # the list of units that was read last


class StateFile:
    """See the module. ``load`` opens it for this process, ``close`` lets go of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: ProcessLock | None = None
        self._connection: sqlite3.Connection | None = None
        self._mark: Mark | None = None
        self._kept = 0  # the last event of a run before: whether that was handed over, nobody knows any more

    def load(self) -> Kept:
        """Open or create it, and read everything; StorageError when it is in use, damaged or cannot be written."""
        self.close()
        self._lock = ProcessLock(self._path, advice="give each subscriber a --state of its own, or stop the other one")
        try:
            with self._explained():
                self._move_over()
                self._connection = self._open(self._path)
                kept = self._read(self._connection)
                self._mark = Mark(self._path)
                self._mark.opened(self._connection)
                self._kept = kept.events[-1][0] if kept.events else 0
                return kept
        except BaseException:
            self.close()
            raise

    @property
    def put_back(self) -> str | None:
        """A sentence where it was older, when it was opened, than it had been before; None where all is well."""
        if self._mark is None or not self._mark.put_back:
            return None
        return (
            f"{self._path} was put back to an older state, or replaced: events since then may come once more, and a"
            " quarantine since then is forgotten; look at the units whose key was quarantined"
        )

    def written_s(self) -> float | None:
        """When anything was written to it last, in seconds since 1970; None while there is none."""
        places = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return max((place.stat().st_mtime for place in places if place.exists()), default=None)

    def look(self) -> Kept:
        """Read it without writing, also while a subscriber runs; nothing when there is none yet."""
        if not self._path.exists():
            return Kept()
        with self._explained():
            if not self._is_database():
                return Kept(chains=self._old_chains())
            with contextlib.closing(sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)) as looking:
                return self._read(looking)

    def commit(
        self,
        *,
        chains: Iterable[ChainRecord] = (),
        heads: Iterable[HeadRecord] = (),
        events: Iterable[VerifiedEvent | Loss] = (),
        newest: SeenList | None = None,
        handed: int = 0,
    ) -> list[int]:
        """Write, durably and in one transaction, what a batch changed; the numbers of its events.

        Events up to number ``handed`` are forgotten: they were handed over.
        """
        chains = tuple(chains)
        with self._transaction() as connection:
            connection.execute("DELETE FROM event WHERE number <= ?", (handed,))
            connection.executemany(_CHAIN, ((one.source, one.kid, msgspec.json.encode(one)) for one in chains))
            rows = ((one.unit, msgspec.json.encode(one)) for one in heads)
            connection.executemany("INSERT OR REPLACE INTO head (unit, record) VALUES (?, ?)", rows)
            if newest is not None:
                connection.execute(_LISTS)
                connection.execute("INSERT OR REPLACE INTO list VALUES (0, ?)", (msgspec.json.encode(newest),))
            insert = "INSERT INTO event (facts, perhaps) VALUES (?, 1)"
            numbers = [connection.execute(insert, (_encode(event),)).lastrowid or 0 for event in events]
            count = self._mark.count(connection) if self._mark is not None else 0
        if self._mark is not None:
            self._mark.follow(count, at_once=any(one.quarantined for one in chains))
        return numbers

    def settle(self, handed: int, *, sure: bool) -> None:
        """Forget what was handed over; ``sure``: none of what is left was, so that it is no repeat next time."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM event WHERE number <= ?", (handed,))
            if sure:
                connection.execute("UPDATE event SET perhaps = 0 WHERE number > ?", (self._kept,))

    def release(self, unit: str) -> bool:
        """Let a quarantined unit speak again: its quarantined chains start anew. False when there was none."""
        released = [
            record for record in self.load().chains if record.quarantined and record.source.endswith(f"/{unit}")
        ]
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM chain WHERE source = ? AND kid = ?", ((one.source, one.kid) for one in released)
            )
        self.close()
        return bool(released)

    def close(self) -> None:
        """Let go of it; may be repeated."""
        with self._explained():
            if self._connection is not None:
                self._connection.close()
        self._connection = None
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    def _is_database(self) -> bool:
        with self._path.open("rb") as file:
            start = file.read(len(MAGIC))
        return start in (MAGIC, b"")

    def _old_chains(self) -> tuple[ChainRecord, ...]:
        try:
            return read_chains(read_bounded(self._path, MAX_STATE_BYTES))
        except KeyStoreError as error:
            raise StorageError(str(error)) from error

    def _move_over(self) -> None:
        """Put a database in the place of a JSON file of a release before, in one step."""
        if not self._path.exists() or self._is_database():
            return
        chains = self._old_chains()
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)
        connection = self._open(new)
        connection.executemany(_CHAIN, ((one.source, one.kid, msgspec.json.encode(one)) for one in chains))
        connection.close()  # the last connection empties the log into the file
        descriptor = os.open(new, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        replace(new, self._path)

    def _open(self, path: Path) -> sqlite3.Connection:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, SECRET_MODE))
        fsync_folder(path.parent)
        connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            execute = connection.execute
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = FULL")
            if execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                connection.executescript(
                    f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, connection: sqlite3.Connection) -> Kept:
        execute = connection.execute
        found = (execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0])
        if found != (APPLICATION_ID, SCHEMA_VERSION):
            raise DamagedError(f"{self._path} is not the memory of a subscriber of this version: give its own file")
        events = execute("SELECT number, facts, perhaps FROM event ORDER BY number").fetchall()
        lists = execute("SELECT count(*) FROM sqlite_schema WHERE name = 'list'").fetchone()[0]
        newest = execute("SELECT record FROM list").fetchone() if lists else None
        return Kept(
            tuple(_decode(row[0], ChainRecord) for row in execute("SELECT record FROM chain ORDER BY number")),
            tuple(_decode(row[0], HeadRecord) for row in execute("SELECT record FROM head ORDER BY unit")),
            tuple((number, _repeated(_outcome(facts), perhaps)) for number, facts, perhaps in events),
            None if newest is None else _decode(newest[0], SeenList),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._connection is None:
            raise StorageError(f"{self._path} is not open")
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise DamagedError(f"{self._path}: {DAMAGED}") from error
            raise StorageError(f"cannot use {self._path} ({error}): free space, or make its folder writable") from error
        except OSError as error:
            raise StorageError(
                f"cannot use {self._path} ({error.strerror}): make its folder exist and writable"
            ) from error


def _encode(outcome: VerifiedEvent | Loss) -> bytes:
    content = msgspec.json.encode(outcome)
    return LOSS + content + b"}" if isinstance(outcome, Loss) else content


def _outcome(content: bytes) -> VerifiedEvent | Loss:
    if content.startswith(LOSS):
        return _decode(content[len(LOSS) : -1], Loss)
    return _decode(content, VerifiedEvent)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return decode(content, kind, MAX_STATE_BYTES)
    except StrictJsonError:
        raise DamagedError(DAMAGED) from None


def _repeated(event: VerifiedEvent | Loss, perhaps: int) -> VerifiedEvent | Loss:
    """An event of a run before: not of this moment any more, and a repeat unless it surely was not handed over."""
    if isinstance(event, Loss):
        return msgspec.structs.replace(event, repeat=bool(perhaps))
    return msgspec.structs.replace(event, fresh=False, repeat=bool(perhaps))
