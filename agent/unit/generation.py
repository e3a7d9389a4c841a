# SPDX-License-Identifier: Apache-2.0
"""One number across all that a unit keeps, by which a file that was put back to an older state is noticed.

Gallery, command counter, outbox, record of used rules and audit log carry the number; a file beside them says which it
is. It rises when they are opened and closed, after each signed command that may change something, and after each
erasure. A gallery from a backup would match somebody who was erased since, a counter would take a command twice, an
outbox would sign its numbers twice, a record of used rules would give once more what is used up: so where the numbers
differ nobody is matched and enrolled, every command has to answer a challenge, and the outbox goes on behind all
numbers that it may have signed (``agent.outbox.numbers``), until the site has looked at the unit and says so. How far
events and commands go in the meantime is kept as well: a second file that is lost before that takes none twice either.

The number rises in an order that a power cut may end anywhere: the file names the coming number before the first of
them carries it, and both count until all do. Who puts all files back at once is not noticed here, but by a
subscriber (``agent.subscribe.chain``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from agent.audit.chain import Fact
from agent.audit.log import AuditLog
from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.outbox.numbers import Head, Remembered
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, convert, decode
from agent.protocol.event import FIRST_PREV
from agent.protocol.names import Digest

MAX_FILE_BYTES = 2048
RIGHTS = "record of used rules"
MAX_REASON = 200  # characters of what a person gives as the reason

Number = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The file. ``coming`` is a number that some may carry already, ``doubt`` the sentence while the site is asked.

    ``rights`` says that the record of used rules carries it, too: not yet at a unit of a release before.
    """

    number: Number = 0
    coming: Number | None = None
    event_seq: Number = 0
    event_digest: Digest = FIRST_PREV
    cmd_seq: Number = 0
    doubt: Annotated[str, Meta(max_length=500)] | None = None
    rights: bool = False


class Numbered(Protocol):
    """What carries the number: 0 before its first."""

    def generation(self) -> int: ...

    def stamp(self, number: int) -> None:
        """Carry ``number`` from now on, durably; StorageError."""


class Counts(Numbered, Protocol):
    """The command counter."""

    @property
    def last(self) -> int: ...

    def advance(self, cmd_seq: int) -> None: ...


class Queues(Numbered, Protocol):
    """The outbox."""

    def head(self) -> Head: ...


def read_known(path: Path, audit: AuditLog | None = None) -> Known | None:
    """What the file at ``path`` knows, with what ``audit`` knows beyond it; None when it is missing or damaged."""
    try:
        known = decode(path.read_bytes(), Known, MAX_FILE_BYTES)
    except (OSError, StrictJsonError):
        known = None
    entry = None if audit is None else audit.last("generation")
    if entry is None:
        return known
    try:
        told = convert(entry.facts, Known)
    except msgspec.ValidationError:  # not of this version
        return known
    known = known or Known()
    newer = told if told.event_seq > known.event_seq else known
    return msgspec.structs.replace(
        known,
        number=max(told.number, known.number),
        event_seq=newer.event_seq,
        event_digest=newer.event_digest,
        cmd_seq=max(told.cmd_seq, known.cmd_seq),
    )


def remembered_of(known: Known | None) -> Remembered:
    """What the outbox is told at its opening; while the site is asked it went on already, with whatever number."""
    if known is None:
        return Remembered()
    return Remembered(Head(known.event_seq, known.event_digest), 0 if known.doubt else known.number)


class Generation:
    """See the module. Made once all are open; thread-safe."""

    def __init__(
        self, path: Path, *, gallery: Numbered, audit: AuditLog, counter: Counts, outbox: Queues, rights: Numbered
    ) -> None:
        """Compare; where all agree, the number rises. Raises StorageError."""
        self._path, self._audit, self._counter, self._outbox = path, audit, counter, outbox
        self._stamped: Mapping[str, Numbered] = {
            "gallery": gallery,
            "command counter": counter,
            "outbox": outbox,
            RIGHTS: rights,
        }
        self._lock = threading.Lock()
        entry = audit.last("generation")
        carried = {name: one.generation() for name, one in self._stamped.items()}
        carried["audit log"] = 0 if entry is None else _number(entry.facts.get("number"))
        known = read_known(path) if path.exists() or any(carried.values()) else Known()
        if known is not None and not known.rights:
            del carried[RIGHTS]
        self._known = known or Known(number=max(carried.values()))
        doubt = self._known.doubt or _doubt(carried, known)
        if doubt is None:
            self.advance()
            return
        last = read_known(path, audit) or self._known
        if counter.last < last.cmd_seq:
            counter.advance(last.cmd_seq)
        self._become(self._reached(number=max(self._known.number, *carried.values()), doubt=doubt))

    @property
    def doubt(self) -> str | None:
        """Which files were put back, and what to do; None when all is well."""
        return self._known.doubt

    def doubted(self) -> bool:
        """Whether the site has to say something before anybody is matched."""
        return self._known.doubt is not None

    def advance(self) -> None:
        """Let the number rise; while the site is asked it stays, and how far the others went is kept.

        After a StorageError the next call completes it.
        """
        with self._lock:
            if self._known.doubt is None:
                self._advance()
            elif (reached := self._reached()) != self._known:
                self._become(reached)

    def accept(self, reason: str) -> None:
        """Go on with the files as they are, because a person says so. Raises StorageError."""
        with self._lock:
            self._audit.append("confirmed", {"what": "files", "reason": reason[:MAX_REASON]})
            self._advance()  # the doubt goes with the last of its writes: a full disk ends none

    def _advance(self) -> None:
        coming = max(self._known.coming or 0, self._known.number + 1)
        self._become(msgspec.structs.replace(self._known, coming=coming))
        for one in self._stamped.values():
            one.stamp(coming)
        done = self._reached(number=coming, coming=None, doubt=None, rights=True)
        facts: dict[str, Fact] = {
            "number": coming,
            "event_seq": done.event_seq,
            "event_digest": done.event_digest,
            "cmd_seq": done.cmd_seq,
        }
        self._audit.append("generation", facts)
        self._become(done)

    def _reached(self, **changes: int | str | None) -> Known:
        """What is known, with how far events and commands went by now."""
        head = self._outbox.head()
        return msgspec.structs.replace(
            self._known, event_seq=head.seq, event_digest=head.digest, cmd_seq=self._counter.last, **changes
        )

    def _become(self, known: Known) -> None:
        write_atomic(self._path, msgspec.json.encode(known), mode=PUBLIC_MODE)
        self._known = known


def _doubt(carried: Mapping[str, int], known: Known | None) -> str | None:
    """A sentence when a file carries another number than it should."""
    if known is not None and set(carried.values()) <= {known.number, known.coming}:
        return None
    marks = {**carried, "file of their common number": 0 if known is None else known.coming or known.number}
    older = [name for name, number in marks.items() if number != max(marks.values())]
    older = older or ["file of their common number"]
    return (
        f"the unit's {', '.join(older)} {'was' if len(older) == 1 else 'were'} put back or replaced: nobody is matched"
        " until the site has looked at the unit and says so (postern ask UNIT unit/confirm what=files reason=…, or here"
        " postern unit confirm files)"
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
