# SPDX-License-Identifier: Apache-2.0
"""The outbox: events are numbered, chained, signed and stored in one transaction, and wait there for the broker.

An event exists from the moment ``append`` returns: with its ``seq``, the digest of its predecessor and its
signature it is on disk, whatever happens next. It leaves when the broker has acknowledged it, and a copy is kept for
some days for whoever missed it and asks (``agent.outbox.kept``). The queue is bounded; when it is full the oldest
presence goes first, then what the unit said about itself, and matches last. What was removed unacknowledged is owned up
to in a signed ``loss`` event: at most one per reason waits at a time, further losses are added up meanwhile.

A sequence number is never used twice as long as not all files of the unit are put back to an older state
(``agent.outbox.numbers``). No program can prevent that; a subscriber detects it as a fork (``agent.subscribe.verify``).
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar, get_args

import msgspec
import rfc8785

from agent.clock import Clock
from agent.errors import DamagedError, StorageError, printable
from agent.keys import SigningKey
from agent.outbox import kept, numbers
from agent.outbox.draft import Draft, assemble, make_loss
from agent.outbox.numbers import Head, Numbers, Remembered
from agent.outbox.storage import OutboxFile, is_full
from agent.parse.strict_json import convert
from agent.protocol import event

MAX_ROWS = 50_000  # a day offline at one event every two seconds
MAX_BYTES = 128 * 1024 * 1024  # bytes of events; 50 000 of them need about 50 MB, and an SD card has the rest
EVICTION_ORDER: tuple[event.Kind, ...] = ("presence", "unit", "match")  # what a door's owner can do without first
MAX_PENDING = 1000  # rows per call, 4 MB at the most
RETRY_S = (30.0, 3600.0)  # shortest and longest pause of a parked row: an ACL is corrected by a person
TIDY_EVERY_S = 60.0  # emptying the log costs some writes; once a minute wears no card out
KEEP_DAYS = 7  # as long as a broker is asked to keep the session of a subscriber that is away
OWNER_LABEL = b"postern/outbox/owner/v1"

T = TypeVar("T")


class Row(msgspec.Struct, frozen=True):
    """An event that waits. ``created_ns`` is comparable with the monotonic clock only when ``this_run``."""

    seq: int
    kind: event.Kind
    payload: bytes
    created_ns: int
    this_run: bool
    attempts: int

    def age_s(self, now_ns: int) -> float | None:
        """Seconds since it was appended, or None for a row of an earlier run: that belongs to the backlog."""
        return (now_ns - self.created_ns) / 1e9 if self.this_run else None


class Outbox:
    """See the module. Thread-safe: the pipeline appends while the uplink drains."""

    def __init__(
        self,
        path: Path,
        *,
        signer: SigningKey,
        source: str,
        clock: Clock,
        random: Callable[[int], bytes] = os.urandom,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        time_step_s: int = 1,
        owner_key: bytes | None = None,
        remembered: Remembered | None = None,
        keep_days: int = KEEP_DAYS,
    ) -> None:
        """Open or create the queue of the unit ``source`` (``/postern/<site>/<unit>``).

        ``owner_key`` marks whose events wait. It must outlive ``signer``, of which it is derived unless given:
        rows that were queued before the unit got a new event key have to be found by ``erase`` too. ``remembered`` is
        what the unit's other files know: an outbox that did not sign last goes on behind (``agent.outbox.numbers``).
        ``keep_days`` says how long what was delivered is kept, at the most; 0 keeps nothing.
        Raises StorageError, with what to do, when the file is damaged, of another unit, held by another
        process, read-only, or when the disk is full.
        """
        if max_rows < 1 or max_bytes < event.MAX_EVENT_BYTES:
            raise ValueError("the outbox must have room for one event")
        self._signer, self._source = signer, source
        self._clock = clock
        self._random = random
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._time_step_s = time_step_s
        self._owner_key = owner_key or signer.derive(OWNER_LABEL)
        self._numbers = Numbers(path, remembered or Remembered())
        self._keep_days = keep_days
        self._settled: datetime | None = None
        self._lock = threading.RLock()
        self._tidied_ns = self._expired_ns = clock.monotonic_ns()
        self.boot = random(8).hex()
        self._db = OutboxFile(path)
        try:
            self._with_reserve(self._adopt)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, draft: Draft, *, owner: bytes | None = None) -> int:
        """Give an event its ``seq``, chain, sign and store it; it is durable when this returns.

        ``owner`` stands for the subject behind the event: only a keyed digest of it is kept, by which ``erase``
        finds the row. Raises StorageError when it cannot be stored: then nothing was changed and no number was
        used. ValueError when the draft has a field that an event must not have.
        """
        with self._lock, self._numbers.transaction(self._db, self._head().seq) as db:
            seq = self._store(db, draft, owner=self._owner_tag(owner))
            if self._make_room(db):
                self._own_up(db)
            return seq

    def pending(self, limit: int, *, after: int = 0) -> list[Row]:
        """Return up to ``limit`` rows beyond ``after`` in order of ``seq``; parked rows are left out until due."""
        limit = min(limit, MAX_PENDING)
        now_ns = self._clock.monotonic_ns()
        columns = "SELECT seq, kind, payload, created_ns, run = ?, attempts FROM event"
        fresh = f"{columns} WHERE due_ns = 0 AND seq > ? ORDER BY seq LIMIT ?"
        due = f"{columns} WHERE due_ns > 0 AND due_ns <= ? AND seq > ? ORDER BY due_ns LIMIT ?"
        with self._lock:
            found = list(self._db.rows(fresh, self.boot, after, limit))
            found += self._db.rows(due, self.boot, now_ns, after, limit)
        rows = [
            Row(seq, kind, payload, created_ns, bool(this_run), attempts)
            for seq, kind, payload, created_ns, this_run, attempts in sorted(found)
        ]
        return rows[:limit]

    def acked(self, *seqs: int) -> None:
        """Remove rows that the broker took; unknown numbers are fine.

        Not fsynced by itself: after a power cut the broker may get an event again, which a verifier sees as
        a duplicate. A full disk does not stop this.
        """
        with self._lock:
            reported = self._with_reserve(lambda: self._remove_acked(seqs))
            if reported:
                self._with_reserve(self._own_up_durably)
            if self._is_tidy_time():
                self._db.tidy()

    def told(self, first: int, last: int) -> kept.Told:
        """Say again what was said from ``first`` to ``last``, a part at a time; ``through`` says how far it goes."""
        with self._lock:
            return kept.tell(self._db, first, min(last, self._head().seq))

    def expire(self, now: datetime | None) -> None:
        """Forget what was kept for its days; while nobody knows the time, the bounds on space alone count."""
        self._settled, now_ns = now, self._clock.monotonic_ns()
        if now is None or now_ns - self._expired_ns < TIDY_EVERY_S * 1e9:
            return
        self._expired_ns = now_ns
        with self._lock:
            if self._with_reserve(lambda: kept.expire(self._db, int(now.timestamp()) - self._keep_days * 24 * 3600)):
                self._db.tidy()

    def parked(self, seq: int, reason: str) -> None:
        """Keep a row that the broker refused out of ``pending`` for a while, longer each time, with its reason."""
        with self._lock:
            self._with_reserve(lambda: self._park(seq, printable(reason)))

    def erase(self, *owners: bytes) -> int:
        """Remove every waiting event of these subjects and every image of it in the file; return how many it were.

        The gap is owned up to in a ``loss`` event with the reason ``erased``. Asking again is free and completes what a
        power cut interrupted.
        """
        tags = {self._owner_tag(owner) for owner in owners}
        with self._lock:
            removed = self._with_reserve(lambda: self._erase(tags))
            self._db.tidy()
            return removed

    def head(self) -> Head:
        """Return the newest event's place in the chain; health carries it, so that a cut tail is noticed."""
        with self._lock:
            return self._head()

    def generation(self) -> int:
        """Number in common with the unit's other files; 0 before its first."""
        with self._lock:
            return self._db.generation()

    def stamp(self, number: int) -> None:
        """Carry ``number`` from now on, durably. Raises StorageError."""
        with self._lock:
            self._with_reserve(lambda: self._stamp(number))

    def depth(self) -> int:
        with self._lock:
            ((count,),) = self._db.rows("SELECT count(*) FROM event")
            return int(count)

    def parked_reasons(self) -> dict[str, int]:
        """Count the parked rows by reason."""
        query = "SELECT reason, count(*) FROM event WHERE due_ns > 0 GROUP BY reason"
        with self._lock:
            return dict(self._db.rows(query))

    def close(self) -> None:
        """Let go of the file; everything appended stays in it."""
        with self._lock:
            self._db.close()

    def _adopt(self) -> None:
        """Make sure that the file is this unit's, and let every parked row be tried again after a restart."""
        with self._db.commit(durable=True) as db:
            db.execute("INSERT OR IGNORE INTO head VALUES (0, ?, 0, ?, 0, 0)", (self._source, event.FIRST_PREV))
            (source,) = db.execute("SELECT source FROM head").fetchone()
            if source != self._source:
                raise DamagedError(f"{self._db.path} is the outbox of {printable(source)}: give this unit its own")
            head = self._numbers.resume(self._head(), numbers.carried(db), self._db.generation())
            db.execute("UPDATE head SET seq = ?, digest = ?", head)
            numbers.carry(db, through := self._numbers.raised(head.seq))
            db.execute("UPDATE event SET due_ns = 0 WHERE due_ns > 0")
        self._numbers.name(through)
        if self._db.row("SELECT 1 FROM lost LIMIT 1") is not None:
            self._own_up_durably()

    def _stamp(self, number: int) -> None:
        with self._db.commit(durable=True) as db:
            self._db.stamp(db, number)

    def _head(self) -> Head:
        (head,) = self._db.rows("SELECT seq, digest FROM head")
        return Head(*head)

    def _store(
        self, db: sqlite3.Connection, draft: Draft, *, owner: bytes | None = None, loss: event.LossReason | None = None
    ) -> int:
        head = self._head()
        seq = head.seq + 1
        members = assemble(draft, source=self._source, boot=self.boot, seq=seq, prev=head.digest)
        signed = event.canonical(members)
        members["sig"] = self._signer.sign_detached(signed, typ=event.SIGNATURE_TYPE)
        payload = rfc8785.dumps(members)
        _check(members, payload)
        db.execute(
            "INSERT INTO event (seq, kind, payload, run, created_ns, created, owner, loss) VALUES (?,?,?,?,?,?,?,?)",
            (
                seq,
                draft.kind,
                payload,
                self.boot,
                self._clock.monotonic_ns(),
                self._clock.now().isoformat(),
                owner,
                loss,
            ),
        )
        # Loss events do not count: they are few, and dropping one to make room would cause another.
        counted = (1, len(payload)) if loss is None else (0, 0)
        db.execute(
            "UPDATE head SET seq = ?, digest = ?, rows = rows + ?, bytes = bytes + ?",
            (seq, event.digest(signed), *counted),
        )
        return seq

    def _make_room(self, db: sqlite3.Connection) -> bool:
        removed = False
        for seq in self._surplus(db):
            self._lose(db, seq, "full")
            removed = True
        return removed

    def _surplus(self, db: sqlite3.Connection) -> Iterator[int]:
        """Yield what has to go, until the rest fits."""
        for kind in EVICTION_ORDER:
            while True:
                rows, used = db.execute("SELECT rows, bytes FROM head").fetchone()
                if rows <= self._max_rows and used <= self._max_bytes:
                    return
                query = "SELECT seq FROM event WHERE kind = ? AND loss IS NULL ORDER BY seq LIMIT 1"
                oldest = db.execute(query, (kind,)).fetchone()
                if oldest is None:
                    break
                yield oldest[0]

    def _lose(self, db: sqlite3.Connection, seq: int, reason: event.LossReason) -> None:
        self._remove(db, seq)
        db.execute(
            "INSERT INTO lost VALUES (?1, ?2, ?2, 1) ON CONFLICT (reason) DO UPDATE SET"
            " first = min(first, ?2), last = max(last, ?2), count = count + 1",
            (reason, seq),
        )

    def _remove(self, db: sqlite3.Connection, seq: int) -> str | None:
        """Delete a row and return the reason of the loss that it reports, if it is such an event."""
        found = db.execute("DELETE FROM event WHERE seq = ? RETURNING length(payload), loss", (seq,)).fetchall()
        if not found:
            return None
        size, loss = found[0]
        if loss is None:
            db.execute("UPDATE head SET rows = rows - 1, bytes = bytes - ?", (size,))
        return str(loss) if loss else None

    def _own_up(self, db: sqlite3.Connection) -> None:
        """Append a loss event for each reason that has something to report and no report waiting."""
        query = (
            "SELECT first, last, count FROM lost WHERE reason = ?1 AND NOT EXISTS (SELECT 1 FROM event WHERE loss = ?1)"
        )
        for reason in get_args(event.LossReason):
            found = db.execute(query, (reason,)).fetchone()
            if found is None:
                continue
            first, last, count = found
            lost = event.Lost(first=first, last=last, count=count, reason=reason)
            draft = make_loss(lost, now=self._clock.now(), clock=self._clock.state(), time_step_s=self._time_step_s)
            db.execute("DELETE FROM lost WHERE reason = ?", (reason,))
            self._store(db, draft, loss=reason)

    def _remove_acked(self, seqs: tuple[int, ...]) -> bool:
        keeping = self._keep_days > 0 and self._db.has_reserve()  # a full disk is for what was not said yet
        now_s = int((self._settled or self._clock.now()).timestamp())  # as ``expire`` counts: no jump makes them old
        with self._db.commit(durable=False) as db:
            if keeping:
                kept.keep(db, seqs, now_s, most_rows=min(self._max_rows, kept.KEPT_ROWS))
            reported = [self._remove(db, seq) for seq in seqs]
        return any(reported)

    def _own_up_durably(self) -> None:
        with self._numbers.transaction(self._db, self._head().seq) as db:
            self._own_up(db)

    def _park(self, seq: int, reason: str) -> None:
        with self._db.commit(durable=False) as db:
            found = db.execute("SELECT attempts FROM event WHERE seq = ?", (seq,)).fetchone()
            if found is None:
                return
            pause_s = min(RETRY_S[0] * 2 ** min(found[0], 16), RETRY_S[1])
            # Between half and all of it, so that rows parked together do not come back together.
            pause_s *= 0.5 + int.from_bytes(self._random(4), "big") / 2**33
            due_ns = self._clock.monotonic_ns() + round(pause_s * 1e9)
            db.execute(
                "UPDATE event SET due_ns = ?, attempts = attempts + 1, reason = ? WHERE seq = ?", (due_ns, reason, seq)
            )

    def _erase(self, tags: set[bytes | None]) -> int:
        with self._numbers.transaction(self._db, self._head().seq) as db:
            owned = db.execute("SELECT seq, owner FROM event WHERE owner IS NOT NULL ORDER BY seq")
            seqs = [seq for seq, owner in owned if owner in tags]
            for seq in seqs:
                self._lose(db, seq, "erased")
            kept.forget(db, tags)
            self._own_up(db)
        return len(seqs)

    def _owner_tag(self, owner: bytes | None) -> bytes | None:
        return None if owner is None else hmac.digest(self._owner_key, owner, "sha256")[:16]

    def _with_reserve(self, act: Callable[[], T]) -> T:
        """Do what frees space, even on a full disk."""
        try:
            return act()
        except StorageError as error:
            if not is_full(error) or not self._db.use_reserve():
                raise
            return act()

    def _is_tidy_time(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        due = now_ns - self._tidied_ns >= TIDY_EVERY_S * 1e9
        empty = self._db.row("SELECT 1 FROM event LIMIT 1") is None
        if due and empty:
            self._tidied_ns = now_ns
        return due and empty


def _check(members: object, payload: bytes) -> None:
    """Refuse to sign away anything but an event: what does not fit the types does not leave."""
    if len(payload) > event.MAX_EVENT_BYTES:
        raise ValueError(f"an event is longer than {event.MAX_EVENT_BYTES} bytes")
    try:
        convert(members, event.Event)
    except msgspec.ValidationError as error:
        raise ValueError(f"this is not an event: {error}") from error
