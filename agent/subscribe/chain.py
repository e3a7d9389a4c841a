# SPDX-License-Identifier: Apache-2.0
"""A subscriber's memory of one unit's chain: which event came last, what is missing, what was seen.

The rules, for an event whose signature holds:

* the next number: its ``prev`` must be the digest of the last event, else there are two histories (``fork``);
* a jump: accepted; the numbers between are remembered as missing and reported as a gap;
* a missing number that comes late, as a parked row does: accepted once;
* a number seen before: ``duplicate`` when it is the same event, ``fork`` when it is another one;
* any other lower number: ``replayed``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec

from agent.errors import StorageError, VerificationError
from agent.protocol.event import Lost
from agent.protocol.names import Digest, Sequence, Source

KNOWN_EVENTS = (
    64  # digests kept per chain: more than an uplink has in flight, so a resent event is told from a forged one
)
MISSING_RANGES = 64  # gaps kept per chain; the oldest is given up first, and what comes late from it is refused
ADMISSIONS = 16  # losses kept per chain that a unit owned up to while more was missing; each waits for late events
MAX_CHAINS = 4096  # as many units as a trust list holds

Thumbprint = Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """Numbers that were not seen, both ends included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Placement(NamedTuple):
    """Where an event stands: after a gap, in one that was known (``late``), or simply next."""

    gap: Gap | None
    late: bool


class Admission(NamedTuple):
    """What a unit owned up to: ``lost`` of the events from ``first`` to ``last`` will never come."""

    first: int
    last: int
    lost: int


class ChainRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A chain as it is stored."""

    source: Source
    kid: Thumbprint
    last: Sequence
    known: Annotated[tuple[tuple[Sequence, Digest], ...], msgspec.Meta(max_length=KNOWN_EVENTS)]
    missing: Annotated[tuple[tuple[Sequence, Sequence], ...], msgspec.Meta(max_length=MISSING_RANGES)]
    admitted: Annotated[tuple[tuple[Sequence, Sequence, Sequence], ...], msgspec.Meta(max_length=ADMISSIONS)]
    expected: Annotated[tuple[tuple[Sequence, Digest], ...], msgspec.Meta(max_length=2 * MISSING_RANGES)]


class ChainFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All chains of a subscriber, the least recently used first."""

    version: Literal[1]
    chains: Annotated[tuple[ChainRecord, ...], msgspec.Meta(max_length=MAX_CHAINS)]


class Chain:
    """One unit's chain under one key."""

    __slots__ = ("_admitted", "_expected", "_known", "_last", "_missing")

    def __init__(self, record: ChainRecord | None = None) -> None:
        self._last = record.last if record else 0
        self._known = dict(record.known) if record else {}  # digests of accepted events
        self._expected = dict(record.expected) if record else {}  # digests that missing events must have
        self._missing = [Gap(*pair) for pair in record.missing] if record else []
        self._admitted = [Admission(*entry) for entry in record.admitted] if record else []

    def place(self, seq: int, prev: str, digest: str) -> Placement:
        """Say where an event stands, changing nothing; VerificationError ``duplicate``, ``fork`` or ``replayed``."""
        if digest != self._known.get(seq, digest) or digest != self._expected.get(seq, digest):
            raise VerificationError("fork", "the unit signed two different events with one number: revoke its key")
        late = self._is_missing(seq)
        if seq <= self._last and not late:
            if seq in self._known:
                raise VerificationError("duplicate", "this event was accepted before")
            raise VerificationError("replayed", "this event is older than what was accepted before")
        if self._known.get(seq - 1, prev) != prev:
            raise VerificationError("fork", "the event follows another history than the one known: revoke its key")
        # A subscriber that starts in the middle of a unit's life misses nothing that it was ever sent.
        jump = self._last and seq > self._last + 1
        return Placement(Gap(self._last + 1, seq - 1) if jump else None, late)

    def accept(self, seq: int, prev: str, digest: str) -> None:
        """Take an event that ``place`` let pass."""
        gap, late = self.place(seq, prev, digest)
        if late:
            self._strike(seq, seq)
        if gap:
            self._missing = [*self._missing, gap][-MISSING_RANGES:]
        self._last = max(self._last, seq)
        self._known[seq] = digest
        for old in sorted(self._known)[:-KNOWN_EVENTS]:
            del self._known[old]
        self._expected[seq - 1] = prev
        self._settle()

    def explain(self, lost: Lost) -> None:
        """Strike out what a loss event owns up to, as soon as no more is missing there than it says.

        Until then late events may still come. Losses that overlap are settled together.
        """
        entry = Admission(lost.first, lost.last, lost.count)
        apart: list[Admission] = []
        for other in self._admitted:
            if other.last < entry.first or entry.last < other.first:
                apart.append(other)
            else:
                entry = Admission(min(entry.first, other.first), max(entry.last, other.last), entry.lost + other.lost)
        self._admitted = [*apart, entry][-ADMISSIONS:]
        self._settle()

    def missing(self) -> tuple[Gap, ...]:
        """List what is missing and not owned up to, in order."""
        return tuple(sorted(self._missing))

    def record(self, source: str, kid: str) -> ChainRecord:
        return ChainRecord(
            source,
            kid,
            self._last,
            tuple(sorted(self._known.items())),
            tuple((gap.first, gap.last) for gap in self._missing),
            tuple(self._admitted),
            tuple(self._expected.items()),
        )

    def _settle(self) -> None:
        """Close the admissions that leave nothing open."""
        still: list[Admission] = []
        for entry in self._admitted:
            inside = (Gap(max(gap.first, entry.first), min(gap.last, entry.last)) for gap in self._missing)
            if sum(max(gap.count, 0) for gap in inside) <= entry.lost:
                self._strike(entry.first, entry.last)
            else:
                still.append(entry)
        self._admitted = still
        self._expected = {seq: digest for seq, digest in self._expected.items() if self._is_missing(seq)}

    def _is_missing(self, seq: int) -> bool:
        return any(gap.first <= seq <= gap.last for gap in self._missing)

    def _strike(self, first: int, last: int) -> None:
        """Take the numbers from ``first`` to ``last`` off the missing ones."""
        rest = (
            part
            for gap in self._missing
            for part in (Gap(gap.first, min(gap.last, first - 1)), Gap(max(gap.first, last + 1), gap.last))
            if part.count > 0
        )
        self._missing = list(rest)[-MISSING_RANGES:]


class Chains:
    """The chains of all units, bounded; the least recently used is forgotten first."""

    def __init__(self, content: bytes | None = None) -> None:
        """Start empty or from ``export``; StorageError when that is damaged."""
        self._chains: OrderedDict[tuple[str, str], Chain] = OrderedDict()
        if content is None:
            return
        try:
            records = msgspec.json.decode(content, type=ChainFile).chains
        except msgspec.MsgspecError:
            raise StorageError(
                "the subscriber's memory of the units is damaged: restore it, or delete it and accept that events"
                " from before now could be replayed once"
            ) from None
        for record in records:
            self._chains[record.source, record.kid] = Chain(record)

    def find(self, source: str, kid: str) -> Chain:
        """Find a chain; a new one when the unit was not heard before."""
        return self._chains.get((source, kid)) or Chain()

    def keep(self, source: str, kid: str, chain: Chain) -> None:
        """Store a chain as the most recently used."""
        self._chains[source, kid] = chain
        self._chains.move_to_end((source, kid))
        while len(self._chains) > MAX_CHAINS:
            self._chains.popitem(last=False)

    def missing(self, source: str) -> tuple[Gap, ...]:
        """List what is missing of a unit under any of its keys."""
        return tuple(gap for (held, _), chain in self._chains.items() if held == source for gap in chain.missing())

    def export(self) -> bytes:
        """Write everything down for the next start."""
        records = tuple(chain.record(source, kid) for (source, kid), chain in self._chains.items())
        return msgspec.json.encode(ChainFile(1, records))
