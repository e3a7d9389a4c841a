# SPDX-License-Identifier: Apache-2.0
"""When somebody last used a rule: durable before anything opens, erased with the person.

A row says that the subject behind a digest used a rule at a time. It is on disk before the pulse, so a crash costs a
person one waiting time and never gives them two pulses. Time is the running clock's while the process lives, and the
unit's settled time after a start (``agent.audit.ageing``): a clock that was set forward ends nobody's waiting. A time
that lies in the future (the clock was set back) counts as now: the waiting begins anew, once, and does not last until
the wrong time has passed. While there is no settled time, as on a unit's first day, uses of before the start are waited
for from the start on, and a use is kept without its time: it counts as now once there is one.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from agent.clock import Clock
from agent.disk.sqlite import OwnedFile
from agent.errors import DamagedError, StorageError

APPLICATION_ID = 0x506F6472  # "Podr", so that another program's database is not taken for ours
SCHEMA_VERSION = 1
SPENT_MARGIN_MS = 7 * 24 * 3600 * 1000  # kept on after the token's end: a clock may be set back
MAX_SPENT = 1_000_000  # tokens of one unit that were used and have not ended; beyond it nothing opens by a token
UNDATED_MS = 0  # of a use while nothing vouched for the time
MAX_COOLDOWN_S = 7 * 24 * 3600  # a week; older uses are dropped at the next one

_SCHEMA = """
CREATE TABLE used (
    rule TEXT NOT NULL,
    owner TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (rule, owner)
) STRICT, WITHOUT ROWID;
"""
# Beside the table of version 1, which a release that knows no tokens goes on with.
_SPENT = """
CREATE TABLE IF NOT EXISTS spent (
    rule TEXT NOT NULL,
    token BLOB NOT NULL,
    owner TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (rule, token)
) STRICT, WITHOUT ROWID;
"""


class TokenUse(msgspec.Struct, frozen=True):
    """The token by which somebody was matched, for a rule that it opens once; remembered until it ends."""

    token_id: bytes
    until: datetime


class RightsFile(OwnedFile):
    """The file of ``Rights``; StorageError when it is held, damaged, foreign or cannot be written."""

    SENTENCE = "the record of who used a rule, {path}, cannot be used: {advice}"
    ADVICE: ClassVar = {
        **OwnedFile.ADVICE,
        sqlite3.SQLITE_FULL: "the disk is full: free space on it; nothing opens until then",
    }
    DAMAGED = "it is damaged: move it away and confirm that; everybody may then use each rule once more at once"
    UNUSABLE = "{path} cannot be used ({reason}): make its folder writable"

    def _prepare(self) -> None:
        execute = self.connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = TRUNCATE")  # small and seldom written: no log that keeps old pages
        execute("PRAGMA secure_delete = ON")
        execute("PRAGMA synchronous = EXTRA")
        if execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            self.connection.executescript(
                f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        found = (execute("PRAGMA application_id").fetchone()[0], execute("PRAGMA user_version").fetchone()[0])
        if found != (APPLICATION_ID, SCHEMA_VERSION):
            raise DamagedError(f"{self.path} is no record of used rules of this version: move it away")
        execute(_SPENT)
        if execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError


class Rights:
    """Who used which rule when; thread-safe. ``owner`` is the digest by which everything erasable knows a subject."""

    def __init__(self, path: Path, clock: Clock, *, settled: Callable[[], datetime | None] = lambda: None) -> None:
        self._file, self._clock, self._settled = RightsFile(path), clock, settled
        self._began_ns = clock.monotonic_ns()
        self._lock = threading.Lock()
        self._here: dict[tuple[str, str], int] = {}  # uses since the start, by the running clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.connection.close()

    def generation(self) -> int:
        """Number in common with the unit's other files; 0 before its first. Raises StorageError."""
        with self._lock:
            return self._file.generation()

    def stamp(self, number: int) -> None:
        """Carry ``number`` from now on, durably. Raises StorageError."""
        with self._lock, self._file.transaction() as connection:
            self._file.stamp(connection, number)

    def take(self, rule: str, owner: str, cooldown_s: int, token: TokenUse | None = None) -> bool:
        """Use a rule if its last use is ``cooldown_s`` ago; whether that was so. Durable when it returns.

        With a ``token`` the rule is used by that token for good, and not if it was before. Raises StorageError, and
        then it was not used.
        """
        with self._lock:
            settled = self._settled()
            now_ns, now_ms = self._clock.monotonic_ns(), UNDATED_MS if settled is None else _ms(settled)
            if not self._is_free(rule, owner, cooldown_s, now_ns, now_ms):
                return False
            if token is not None and self._is_spent(rule, token.token_id):
                return False
            with self._file.transaction() as connection:
                if token is not None:
                    self._spend(connection, rule, token, owner, now_ms)
                connection.execute("UPDATE used SET at_ms = ? WHERE at_ms = ?", (now_ms, UNDATED_MS))
                connection.execute("DELETE FROM used WHERE at_ms < ?", (now_ms - MAX_COOLDOWN_S * 1000,))
                connection.execute("INSERT OR REPLACE INTO used VALUES (?, ?, ?)", (rule, owner, now_ms))
            self._here[rule, owner] = now_ns
            return True

    def is_spent(self, rule: str, token_id: bytes) -> bool:
        """Whether a token has used a rule. Raises StorageError."""
        with self._lock:
            return self._is_spent(rule, token_id)

    def erase(self, *owners: str) -> None:
        """Forget people; raises StorageError, and then they are remembered."""
        with self._lock:
            with self._file.transaction() as connection:
                connection.executemany("DELETE FROM used WHERE owner = ?", [(owner,) for owner in owners])
                connection.executemany("DELETE FROM spent WHERE owner = ?", [(owner,) for owner in owners])
            self._here = {key: at for key, at in self._here.items() if key[1] not in owners}

    def _is_spent(self, rule: str, token_id: bytes) -> bool:
        return self._file.row("SELECT 1 FROM spent WHERE rule = ? AND token = ?", rule, token_id) is not None

    def _spend(self, connection: sqlite3.Connection, rule: str, token: TokenUse, owner: str, now_ms: int) -> None:
        connection.execute("DELETE FROM spent WHERE until_ms < ?", (now_ms - SPENT_MARGIN_MS,))
        (count,) = connection.execute("SELECT count(*) FROM spent").fetchone()
        if count >= MAX_SPENT:
            raise StorageError(f"{MAX_SPENT} tokens were used here and have not ended: issue them for a shorter time")
        until_ms = _ms(token.until)
        connection.execute("INSERT INTO spent VALUES (?, ?, ?, ?)", (rule, token.token_id, owner, until_ms))

    def _is_free(self, rule: str, owner: str, cooldown_s: int, now_ns: int, now_ms: int) -> bool:
        here = self._here.get((rule, owner))
        if here is not None:
            return now_ns - here >= cooldown_s * 1_000_000_000
        found = self._file.row("SELECT at_ms FROM used WHERE rule = ? AND owner = ?", rule, owner)
        if found is None:
            return True
        if now_ms == UNDATED_MS:
            return now_ns - self._began_ns >= cooldown_s * 1_000_000_000
        age_ms = now_ms - int(found[0])
        if found[0] == UNDATED_MS or age_ms < 0:  # or the clock was set back: wait once from now on
            with self._file.transaction() as connection:
                connection.execute("UPDATE used SET at_ms = ? WHERE rule = ? AND owner = ?", (now_ms, rule, owner))
            return False
        return age_ms >= cooldown_s * 1000


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)
