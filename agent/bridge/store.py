# SPDX-License-Identifier: Apache-2.0
"""The bridge's memory: records until every output has them, where each output stands, and what none would take.

One SQLite file. A record is on disk before the broker hears that its event was taken; an output's place moves in the
transaction that says what became of the records. So after a crash each output gets everything, perhaps some of it
again, with the same keys. Which records are of this moment is known by the running clock, and only of those that were
taken since the start: a clock that is set back makes nothing fresh. Bounded: an output that is too far behind loses
the oldest, which is written down as a dead letter, so that one that is broken for weeks does not end the others.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from agent.bridge.records import Body, Record
from agent.clock import Clock
from agent.disk.files import SECRET_MODE
from agent.disk.process_lock import ProcessLock
from agent.disk.put_back import Mark
from agent.disk.sqlite import SqliteFile
from agent.errors import DamagedError, StorageError
from agent.parse.strict_json import StrictJsonError, decode

APPLICATION_ID = 0x506F6272  # "Pobr"
SCHEMA_VERSION = 2  # 1 had a table of numbers, which began again with a new file
MAX_BEHIND = 100_000  # records that an output may be behind: two days at one event every two seconds, 200 MB
KEEP_ROWS = 10_000  # records that stay after every output has them: by their keys what comes again is known
MAX_DEAD = 10_000  # dead letters kept for each output; the oldest goes
MAX_BODY_BYTES = 16 * 1024
TRIM_EVERY = 500  # records between two looks at what may go
RECENT_NS = 60_000_000_000  # so long it is known when a record was taken; longer than anything is of this moment
TOO_LONG = "longer than a record may be, and left out"
PUT_BACK = (
    "the bridge's store was put back to an older state, or replaced: each output gets once more, with its key, what"
    " came since then, and never what waited for it; look there for what is missing"
)
BY_THE_BRIDGE = "stop the bridge (systemctl stop postern-bridge)"

_SCHEMA = """
CREATE TABLE record (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, taken_s INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE cursor (output TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
CREATE TABLE dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT, output TEXT NOT NULL, key TEXT NOT NULL, at_s INTEGER NOT NULL,
    reason TEXT NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE person (name TEXT PRIMARY KEY) STRICT;
"""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that an output will never take, and why."""

    output: str
    key: str
    at_s: int
    reason: str
    body: Body


class Store(SqliteFile):
    """See the module. Thread-safe: the receiver writes while the outputs read."""

    SENTENCE = "the bridge's store {path} cannot be used: {advice}"
    ADVICE: ClassVar = {
        sqlite3.SQLITE_FULL: "the disk is full: free space on it",
        sqlite3.SQLITE_READONLY: "make the file and its folder writable for the bridge",
        sqlite3.SQLITE_CANTOPEN: "make its folder exist and writable for the bridge",
        sqlite3.SQLITE_BUSY: "another program holds it: close that",
        sqlite3.SQLITE_IOERR: "the disk does not read or write: check it, then the free space",
    }
    DAMAGED = "it is damaged: move it away; outputs then begin with what comes next"

    def __init__(
        self,
        path: Path,
        *,
        outputs: Iterable[str],
        clock: Clock,
        random: Callable[[int], bytes] = secrets.token_bytes,
        max_behind: int = MAX_BEHIND,
        max_dead: int = MAX_DEAD,
    ) -> None:
        """Open or create it for ``outputs``: a new one begins with what comes next. Raises StorageError.

        The places of others stay: ``keep_only`` drops them.
        """
        super().__init__(path)
        self._clock, self._random, self._max_behind = clock, random, max_behind
        self._max_dead = max_dead
        self._before = 0  # numbers up to this were taken before anything that is known
        self._taken: deque[tuple[int, int]] = deque()  # a number, and when it and those since the one before were taken
        self._guard = threading.RLock()
        self._written = threading.Condition(self._guard)
        self._since_trim = 0
        self._lock = ProcessLock(path, advice=BY_THE_BRIDGE)
        self._mark = Mark(path)
        try:
            self._open(tuple(outputs))
        except BaseException:
            self.close()
            raise

    @property
    def put_back(self) -> str | None:
        """A sentence where it was older, when it was opened, than it had been before; None where all is well."""
        return PUT_BACK if self._mark.put_back else None

    def serial(self) -> str:
        """What was never given before, by this file or one that was moved away, for the key of what has none."""
        return self._random(16).hex()

    def put(self, items: Iterable[tuple[str, Body]], now_s: int) -> None:
        """Keep records, durably; one whose key is known is dropped."""
        rows = [(key, now_s, _content(body)) for key, body in items]
        with self._guard:
            with self.transaction() as db:
                db.executemany("INSERT OR IGNORE INTO record (key, taken_s, body) VALUES (?, ?, ?)", rows)
                newest, count = _newest(db), self._mark.count(db)
                self._since_trim += len(rows)
                if self._since_trim >= TRIM_EVERY:
                    self._since_trim = 0
                    self._trim(db, now_s)
            self._mark.follow(count)
            now_ns = self._clock.monotonic_ns()
            self._taken.append((newest, now_ns))
            while now_ns - self._taken[0][1] > RECENT_NS:
                self._before = self._taken.popleft()[0]
            self._written.notify_all()

    def upcoming(self, output: str, most: int, timeout_s: float = 0.0) -> list[Record]:
        """Records that an output did not have, in order; waits for the first."""
        query = (
            "SELECT number, key, taken_s, body FROM record"
            " WHERE number > (SELECT number FROM cursor WHERE output = ?) ORDER BY number LIMIT ?"
        )
        with self._guard:
            rows = list(self.rows(query, output, most))
            if not rows and timeout_s > 0 and self._written.wait(timeout_s):
                rows = list(self.rows(query, output, most))
            return [Record(row[0], row[1], row[2], _body(row[3]), self._age_s(row[0])) for row in rows]

    def passed(self, output: str, number: int, dead: Sequence[tuple[Record, str]], now_s: int) -> None:
        """Move an output's place up to ``number``; ``dead`` are those that it will never take, with the reason."""
        letters = [(output, one.key, now_s, reason, _content(one.body)) for one, reason in dead]
        with self._guard, self.transaction() as db:
            db.execute("UPDATE cursor SET number = max(number, ?) WHERE output = ?", (number, output))
            self._bury(db, output, letters)

    def behind(self) -> dict[str, int]:
        """How many records each output has still to get."""
        query = "SELECT output, (SELECT count(*) FROM record WHERE record.number > cursor.number) FROM cursor"
        with self._guard:
            return dict(self.rows(query))

    def dead(self) -> list[DeadLetter]:
        """All dead letters, the oldest first."""
        with self._guard:
            rows = list(self.rows("SELECT output, key, at_s, reason, body FROM dead ORDER BY number"))
        return [DeadLetter(output, key, at_s, reason, _body(body)) for output, key, at_s, reason, body in rows]

    def dead_counts(self) -> dict[str, int]:
        with self._guard:
            return dict(self.rows("SELECT output, count(*) FROM dead GROUP BY output"))

    def people(self, names: frozenset[str]) -> set[str]:
        """Remember who is known here now; those who were known and are no more."""
        with self._guard, self.transaction() as db:
            known = {row[0] for row in db.execute("SELECT name FROM person")}
            db.executemany("INSERT OR IGNORE INTO person VALUES (?)", [(name,) for name in names])
            return known - names

    def forget_person(self, name: str, item: tuple[str, Body], now_s: int) -> None:
        """Forget somebody, and have every output hear of it: one transaction."""
        key, body = item
        with self._guard:
            with self.transaction() as db:
                db.execute("DELETE FROM person WHERE name = ?", (name,))
                insert = "INSERT OR IGNORE INTO record (key, taken_s, body) VALUES (?, ?, ?)"
                db.execute(insert, (key, now_s, _content(body)))
            self._written.notify_all()

    def keep_only(self, outputs: Iterable[str]) -> None:
        """Forget the places of all other outputs: one of such a name begins with what comes next."""
        names = tuple(outputs)
        marks = ", ".join("?" * len(names))
        with self._guard, self.transaction() as db:
            db.execute(f"DELETE FROM cursor WHERE output NOT IN ({marks})", names)  # noqa: S608 - question marks

    def close(self) -> None:
        """Let go of it; may be repeated."""
        with self._guard:
            if getattr(self, "connection", None) is not None:
                self.connection.close()
            self._lock.release()

    def _open(self, outputs: tuple[str, ...]) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, SECRET_MODE))
        except OSError as error:
            raise StorageError(f"cannot use {self.path} ({error.strerror}): make its folder writable") from error
        with self.explained():
            self.connection = sqlite3.connect(self.path, timeout=1, isolation_level=None, check_same_thread=False)
            execute = self.connection.execute
            execute("PRAGMA journal_mode = WAL")
            execute("PRAGMA synchronous = FULL")
            execute("PRAGMA secure_delete = ON")
            if execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                self.connection.executescript(
                    f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            found = (execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0])
            if found == (APPLICATION_ID, 1):
                self.connection.executescript("BEGIN EXCLUSIVE; DROP TABLE serial; PRAGMA user_version = 2; COMMIT;")
                found = (APPLICATION_ID, SCHEMA_VERSION)
            if found == (APPLICATION_ID, SCHEMA_VERSION) and execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError
        if found != (APPLICATION_ID, SCHEMA_VERSION):
            raise DamagedError(f"{self.path} is not the store of a bridge of this version: give the bridge its own")
        with self.transaction() as db:
            last = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'record'").fetchone()[0]
            db.executemany("INSERT OR IGNORE INTO cursor VALUES (?, ?)", [(name, last) for name in outputs])
            self._mark.opened(db)
            self._before = last

    def _trim(self, db: sqlite3.Connection, now_s: int) -> None:
        """Forget what every output has, but for the newest; move on who is too far behind."""
        newest = _newest(db)
        floor = newest - self._max_behind
        for output, number in db.execute("SELECT output, number FROM cursor WHERE number < ?", (floor,)).fetchall():
            reason = f"records {number + 1} to {floor} were dropped: the output was more than {self._max_behind} behind"
            body = msgspec.json.encode(Body(kind="notice", text=reason))
            self._bury(db, output, [(output, f"dropped-{number + 1}-{floor}", now_s, reason, body)])
            db.execute("UPDATE cursor SET number = ? WHERE output = ?", (floor, output))
        done = db.execute("SELECT coalesce(min(number), 0) FROM cursor").fetchone()[0]
        db.execute("DELETE FROM record WHERE number <= ?", (min(done, newest - KEEP_ROWS),))

    def _bury(self, db: sqlite3.Connection, output: str, letters: list[tuple[str, str, int, str, bytes]]) -> None:
        if not letters:
            return
        db.executemany("INSERT INTO dead (output, key, at_s, reason, body) VALUES (?, ?, ?, ?, ?)", letters)
        db.execute(
            "DELETE FROM dead WHERE output = ?1 AND number <= (SELECT max(number) FROM dead WHERE output = ?1) - ?2",
            (output, self._max_dead),
        )

    def _age_s(self, number: int) -> float | None:
        """Seconds since a record was taken, by the running clock; None where that is not known."""
        if number <= self._before:
            return None
        taken_ns = next((at for last, at in self._taken if number <= last), None)
        return None if taken_ns is None else (self._clock.monotonic_ns() - taken_ns) / 1e9


def _newest(db: sqlite3.Connection) -> int:
    found: int = db.execute("SELECT coalesce(max(number), 0) FROM record").fetchone()[0]
    return found


def _content(body: Body) -> bytes:
    """The stored form; what can be read again is never longer than ``MAX_BODY_BYTES``."""
    content = msgspec.json.encode(body)
    if len(content) > MAX_BODY_BYTES:
        content = msgspec.json.encode(msgspec.structs.replace(body, text=TOO_LONG, unit=None, event=None))
    return content


def _body(content: bytes) -> Body:
    try:
        return decode(content, Body, MAX_BODY_BYTES)
    except StrictJsonError:
        raise DamagedError("the bridge's store is damaged: move it away; outputs then begin with what comes") from None
