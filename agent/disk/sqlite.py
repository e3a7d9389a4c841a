# SPDX-License-Identifier: Apache-2.0
"""An SQLite file of the unit: transactions that hold or leave nothing, and errors that say what to do."""

from __future__ import annotations

import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from agent.disk.files import SECRET_MODE, fsync_folder
from agent.errors import DamagedError, StorageError


def carried(store: sqlite3.Connection) -> int:
    """The number that a store carries, by which another file knows how far it had come; 0: none yet."""
    if store.execute("SELECT 1 FROM sqlite_schema WHERE name = 'generation'").fetchone() is None:
        return 0
    found = store.execute("SELECT number FROM generation").fetchone()
    return 0 if found is None else int(found[0])


def carry(store: sqlite3.Connection, number: int) -> None:
    """Have a store carry ``number``, in a table of its own, so that an older program still opens the file."""
    store.execute(
        "CREATE TABLE IF NOT EXISTS generation (id INTEGER PRIMARY KEY CHECK (id = 0), number INTEGER NOT NULL) STRICT"
    )
    store.execute("INSERT OR REPLACE INTO generation VALUES (0, ?)", (number,))


class SqliteFile:
    """One connection to ``path``. Each method raises StorageError (damage: DamagedError), and then nothing was changed.

    A subclass says what an error means for its file: ``SENTENCE`` with its advice, by SQLite's primary result code
    (sqlite.org/rescode.html); what is not in there is damage.
    """

    SENTENCE: ClassVar[str]
    ADVICE: ClassVar[Mapping[int, str]]
    DAMAGED: ClassVar[str]

    connection: sqlite3.Connection

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        """Answer a query row by row; do not write before the last one was read."""
        with self.explained():
            yield from self.connection.execute(query, parameters)

    def row(self, query: str, *parameters: object) -> tuple[Any, ...] | None:
        """First row of the answer to a query, if any."""
        with self.explained():
            found: tuple[Any, ...] | None = self.connection.execute(query, parameters).fetchone()
            return found

    def generation(self) -> int:
        """Number that the file carries in common with the unit's others (``agent.unit.generation``); 0: none yet."""
        with self.explained():
            return carried(self.connection)

    def stamp(self, connection: sqlite3.Connection, number: int) -> None:
        """Carry ``number``; inside a transaction."""
        carry(connection, number)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit at the end of the block, or roll back and raise."""
        with self.explained():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn an error of SQLite into one that says what to do."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program, not a fact about the disk
        except sqlite3.Error as error:
            # The low byte is the class of an extended code.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            kind = StorageError if code in self.ADVICE else DamagedError
            advice = self.ADVICE.get(code, self.DAMAGED)
            raise kind(self.SENTENCE.format(path=self.path, advice=advice)) from error


class OwnedFile(SqliteFile, ABC):
    """A file of the service, opened or created for one process alone. ``ADVICE`` is what its errors mean there.

    ``UNUSABLE`` is the sentence for a file that cannot be made. Opening raises StorageError when the file is held,
    damaged, foreign or cannot be written.
    """

    ADVICE: ClassVar[Mapping[int, str]] = {
        sqlite3.SQLITE_FULL: "the disk is full: free space on it",
        sqlite3.SQLITE_READONLY: "it cannot be written: make the file and its folder writable for the service",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened: make the folder exist and writable for the service",
        sqlite3.SQLITE_PERM: "it cannot be opened: make the file writable for the service",
        sqlite3.SQLITE_BUSY: "another process holds it: stop the other agent",
        sqlite3.SQLITE_LOCKED: "another process holds it: stop the other agent",
        sqlite3.SQLITE_IOERR: "the disk does not read or write: check the disk, then the free space",
    }
    UNUSABLE: ClassVar[str]

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, SECRET_MODE))
            fsync_folder(path.parent)  # a new file's name must survive a power cut as its first commit does
        except OSError as error:
            raise StorageError(self.UNUSABLE.format(path=path, reason=error.strerror)) from error
        with self.explained():
            self.connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            with self.explained():
                self._prepare()
        except BaseException:
            self.connection.close()
            raise

    @abstractmethod
    def _prepare(self) -> None:
        """Set the connection up, make the schema of a new file, refuse a foreign or damaged one."""
