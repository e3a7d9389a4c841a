# SPDX-License-Identifier: Apache-2.0
"""What a unit said lately, kept after the broker took it, for whoever missed it and asks.

A broker forgets what no session was there for, what expired, and what a full queue could not hold; the unit is the one
place that can say it again. The rows stand in the outbox's own file, under its lock, its bounds on space, and its
erasure: an event about somebody who withdrew goes from here with the rest. What is not here any more is told as gone,
without the reason, which would say that somebody withdrew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from agent.outbox.storage import OutboxFile

KEPT_ROWS = 50_000  # as many as may wait: more than a day at one event every two seconds
KEPT_BYTES = 64 * 1024 * 1024  # bytes of events; 50 000 of them need about 50 MB
TOLD_BYTES = 9_000  # of events in one answer: what fits, in base64url and beside the rest, into a response
TOLD_ROWS = 256  # numbers looked at for one answer
TOLD_GAPS = 32  # ranges of numbers that are gone, in one answer


class Told(msgspec.Struct, frozen=True):
    """What became of the numbers asked for, from the first up to ``through``.

    ``events`` are those at hand, ``gone`` the ranges that are kept no more. What is in neither waits for the broker.
    """

    through: int
    events: tuple[bytes, ...]
    gone: tuple[tuple[int, int], ...]


def keep(db: sqlite3.Connection, seqs: Iterable[int], now_s: int, *, most_rows: int) -> None:
    """Copy rows of the queue, inside the transaction that removes them; the oldest give way to them."""
    copy = (
        "INSERT OR IGNORE INTO kept (seq, payload, owner, taken_s)"
        " SELECT seq, payload, owner, ? FROM event WHERE seq = ?"
    )
    db.executemany(copy, ((now_s, seq) for seq in seqs))
    while True:
        rows, used = db.execute("SELECT rows, bytes FROM kept_size").fetchone()
        if not rows or (rows <= most_rows and used <= KEPT_BYTES):
            return
        db.execute("DELETE FROM kept WHERE seq = (SELECT min(seq) FROM kept)")


def expire(db: OutboxFile, before_s: int) -> bool:
    """Remove what was taken before; whether there was anything."""
    if db.row("SELECT 1 FROM kept WHERE taken_s < ? LIMIT 1", before_s) is None:
        return False
    with db.commit(durable=False) as connection:
        connection.execute("DELETE FROM kept WHERE taken_s < ?", (before_s,))
    return True


def forget(db: sqlite3.Connection, tags: set[bytes | None]) -> None:
    """Remove the events of these subjects."""
    owned = db.execute("SELECT seq, owner FROM kept WHERE owner IS NOT NULL").fetchall()
    db.executemany("DELETE FROM kept WHERE seq = ?", [(seq,) for seq, owner in owned if owner in tags])


def tell(db: OutboxFile, first: int, last: int) -> Told:
    """Look up the numbers from ``first`` to ``last``, which is not beyond the newest event."""
    if first > last:
        return Told(last, (), ())
    query = (
        "SELECT seq, payload FROM kept WHERE seq BETWEEN ?1 AND ?2 UNION ALL"
        " SELECT seq, NULL FROM event WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?3"
    )
    rows = list(db.rows(query, first, last, TOLD_ROWS))
    events: list[bytes] = []
    gone: list[tuple[int, int]] = []
    upcoming, used = first, 0
    for seq, payload in rows:
        used += 0 if payload is None else len(payload)
        if used > TOLD_BYTES or (seq > upcoming and len(gone) == TOLD_GAPS):
            return Told(upcoming - 1, tuple(events), tuple(gone))
        if seq > upcoming:
            gone.append((upcoming, seq - 1))
        if payload is not None:
            events.append(payload)
        upcoming = max(upcoming, seq + 1)
    if len(rows) == TOLD_ROWS:
        return Told(upcoming - 1, tuple(events), tuple(gone))
    if upcoming <= last:
        if len(gone) == TOLD_GAPS:
            return Told(upcoming - 1, tuple(events), tuple(gone))
        gone.append((upcoming, last))
    return Told(last, tuple(events), tuple(gone))
