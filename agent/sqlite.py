# SPDX-License-Identifier: Apache-2.0
"""An SQLite file of the unit: transactions that hold or leave nothing, and errors that say what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from agent.errors import DamagedError, StorageError


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
        if self.row("SELECT 1 FROM sqlite_schema WHERE name='generation'") is None:
            return 0
        found = self.row("SELECT number FROM generation")
        return 0 if found is None else int(found[0])

    def stamp(self, connection: sqlite3.Connection, number: int) -> None:
        """Carry ``number``; inside a transaction. A table of its own, so that an older program still opens the file."""
        connection.execute(
            "CREATE TABLE IF NOT EXISTS generation (id INTEGER PRIMARY KEY CHECK (id = 0), number INTEGER NOT NULL)"
            " STRICT"
        )
        connection.execute("INSERT OR REPLACE INTO generation VALUES (0, ?)", (number,))

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
