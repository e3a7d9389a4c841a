# SPDX-License-Identifier: Apache-2.0
"""How far a unit's event numbers may have gone, told in two places: a lost outbox takes none of them twice.

The outbox carries a bound, in a table of its own, and a small file beside it names one as well. A number beyond the
bound is signed only once both name a later one, the outbox first; at each start both do. So an outbox that carries
less than the file says is not the one that signed last: it is an older one, or a new one in the place of one that a
power cut took, and goes on behind the bound. The last numbers before a bound stay free (``AT_ONCE``): whoever knows
the event before would look for its digest. Subscribers see a gap, ask, and are told that it is gone.

What is not noticed here but by a subscriber, as a fork: both put back with all that remembers them, and a disk that
forgets what it said it had written, of this start and within one block.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.outbox.storage import OutboxFile
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, decode
from agent.protocol.event import FIRST_PREV

BLOCK = 256  # numbers between two writes of the file: what a lost outbox leaves out at the most
LEAP = 40_000  # numbers left out where the bound is lost, too: less than a verifier takes for a jump of one unit
AT_ONCE = 8  # numbers, more than one transaction of the outbox needs: an event, and a loss for each reason
MAX_FILE_BYTES = 256


class Head(NamedTuple):
    """The newest event: its seq, 0 before the first, and the digest that the next one names as ``prev``."""

    seq: int
    digest: str


class Remembered(NamedTuple):
    """What the unit's other files know of its outbox: a head that it had, and the least generation of it."""

    head: Head = Head(0, FIRST_PREV)
    generation: int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    through: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


def numbers_path(outbox: Path) -> Path:
    """Where the file beside the outbox lies, by a name that says whose it is: one folder may hold several."""
    return outbox.with_suffix(".numbers.json")


class Numbers:
    """The bound. Not thread-safe: the outbox serialises its calls."""

    def __init__(self, outbox: Path, remembered: Remembered) -> None:
        """Read the file beside the ``outbox``; a missing or damaged one names nothing."""
        self._path = numbers_path(outbox)
        self._remembered = remembered
        try:
            self._through: int | None = decode(self._path.read_bytes(), _File, MAX_FILE_BYTES).through
        except (OSError, StrictJsonError):
            self._through = None

    def resume(self, head: Head, carried: int | None, generation: int) -> Head:
        """Where an outbox goes on that has this ``head`` and carries this bound and ``generation``: there, or later."""
        known, named, own = self._remembered.head, self._through, carried or 0
        older = head.seq < known.seq or generation < self._remembered.generation
        # The power may have failed when the outbox carried its bound and the file did not name it yet.
        last = carried == named or own > (head.seq + BLOCK - 1 if named is None else named)
        if last and not older:
            return head
        newest, bound = max(head, known), max(named or 0, own)
        if bound < newest.seq or (older and bound == own):  # the file is as old as the outbox, or lost as well
            bound = max(bound, newest.seq) + LEAP
        return Head(bound, newest.digest)

    def raised(self, seq: int) -> int:
        """The bound of a block after event ``seq``; it never sinks."""
        return max(seq + BLOCK, self._through or 0)

    def name(self, through: int) -> None:
        """Have the file name a bound that the outbox carries durably. Raises StorageError."""
        if through != self._through:
            write_atomic(self._path, msgspec.json.encode(_File(through)), mode=PUBLIC_MODE)
            self._through = through

    @contextmanager
    def transaction(self, store: OutboxFile, seq: int) -> Iterator[sqlite3.Connection]:
        """A durable one after event ``seq``, which finds its numbers within the bound. Raises StorageError."""
        if seq + AT_ONCE > (self._through or 0):
            through = self.raised(seq)
            with store.commit(durable=True) as connection:
                carry(connection, through)
            self.name(through)
        with store.commit(durable=True) as connection:
            yield connection


def carried(store: sqlite3.Connection) -> int | None:
    """The bound that an outbox carries; None when it is new, or of a release before."""
    if store.execute("SELECT 1 FROM sqlite_schema WHERE name = 'numbers'").fetchone() is None:
        return None
    found = store.execute("SELECT through FROM numbers").fetchone()
    return None if found is None else int(found[0])


def carry(store: sqlite3.Connection, through: int) -> None:
    """Have an outbox carry a bound, in a table of its own, so that an older program still opens the file."""
    store.execute(
        "CREATE TABLE IF NOT EXISTS numbers (id INTEGER PRIMARY KEY CHECK (id = 0), through INTEGER NOT NULL) STRICT"
    )
    store.execute("INSERT OR REPLACE INTO numbers VALUES (0, ?)", (through,))
