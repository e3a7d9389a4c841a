# SPDX-License-Identifier: Apache-2.0
"""How far a store had come, kept in a file beside it: a store that was put back to an older state is noticed.

The store counts its commits, in the transaction of each; every so many of them the count is written to the other file
as well. A store that is behind that was put back from a backup, or replaced by a new one. Who puts back both is not
noticed, nor are the last few commits.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from agent.disk.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.disk.sqlite import carried, carry
from agent.errors import KeyStoreError, StorageError

EVERY = 16  # commits between two writes of the file: it costs a subscriber nothing, and a backup is older than that
MAX_DIGITS = 16  # a number that JSON can say, and a thousand commits a second for years


class Mark:
    """Of the store at ``path``. ``put_back`` says whether that was behind when it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}.mark")
        self._written = self._read()
        self.put_back = False

    def opened(self, store: sqlite3.Connection) -> None:
        """Compare with a store that was opened just now."""
        self.put_back = carried(store) < self._written

    def count(self, store: sqlite3.Connection) -> int:
        """Count a commit of the store, inside its transaction; for ``follow`` once that holds."""
        number = max(carried(store), self._written) + 1
        carry(store, number)
        return number

    def follow(self, number: int, *, at_once: bool = False) -> None:
        """Write the count down, where it is time or ``at_once``; a full disk is passed over."""
        if not at_once and number < self._written + EVERY:
            return
        with suppress(StorageError):
            write_atomic(self._path, b"%d\n" % number, mode=PUBLIC_MODE)
            self._written = number

    def _read(self) -> int:
        try:
            content = read_bounded(self._path, MAX_DIGITS + 1).strip()
        except KeyStoreError:
            return 0
        return int(content) if content.isdigit() and len(content) <= MAX_DIGITS else 0
