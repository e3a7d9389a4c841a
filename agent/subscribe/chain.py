# SPDX-License-Identifier: Apache-2.0
"""A subscriber's memory of one unit's chain: which event came last, what is missing, what was seen.

The rules, for an event whose signature holds:

* the next number: its ``prev`` must be the digest of the last event, else there are two histories (``fork``);
* a jump: accepted; the numbers between are remembered as missing and reported as a gap;
* a missing number that comes late, as a parked row does: accepted once;
* a number seen before: ``duplicate`` when it is the same event, ``fork`` when it is another one;
* any other lower number: ``replayed``;
* a lower number that was signed after a higher one was here, or that comes fresh from another run of the unit than
  the higher one: ``overtaken``, for two units count under one key;
* a jump further than an outbox and the time since could hold: ``jump``.

After a fork, an overtaken event or such a jump the key is quarantined: whatever it signs is refused until a person
has looked at the unit and lets it speak again, which starts its chain anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from agent.errors import DamagedError, VerificationError
from agent.parse.strict_json import StrictJsonError, decode
from agent.protocol.event import Lost
from agent.protocol.names import Boot, Digest, Sequence, Source

KNOWN_EVENTS = (
    64  # digests kept per chain: more than an uplink has in flight, so a resent event is told from a forged one
)
MISSING_RANGES = 64  # gaps kept per chain; the oldest is given up first, and what comes late from it is refused
ADMISSIONS = 16  # losses kept per chain that a unit owned up to while more was missing; each waits for late events
MAX_STATE_BYTES = 64 * 1024 * 1024  # of a JSON file: 4096 chains, each with its 64 digests and 64 gaps
MAX_CHAINS = 4096  # as many units as a trust list holds
MAX_JUMP = 50_000  # numbers that an outbox holds: what lies between two events that come one after the other ...
JUMP_PER_S = 1  # ... and one a second for the time between them, in which this subscriber may have been away
CLOCKS_S = 300  # the unit's clock may be ahead of the subscriber's by so much
OVERTAKEN_S = 10  # a synchronised clock is stepped back by less
Contradiction = Literal["fork", "overtaken", "jump"]
QUARANTINING: tuple[str, ...] = get_args(Contradiction)

DAMAGED = (
    "the subscriber's memory of the units is damaged: restore it, or delete it and accept that events from before now"
    " could be taken once more"
)

Thumbprint = Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


class Gap(msgspec.Struct, frozen=True, order=True):
    """Numbers that were not seen, both ends included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Entry(NamedTuple):
    """What a chain has to know of an event.

    ``signed`` and ``now``: its time and the subscriber's, whole seconds since 1970; ``signed`` is None when the unit
    did not know the time.
    """

    seq: int
    prev: str
    digest: str
    boot: str
    signed: int | None
    now: int
    fresh: bool

    @property
    def here(self) -> int:
        """When it was signed at the latest."""
        return self.now if self.signed is None else min(self.signed, self.now + CLOCKS_S)


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
    here: int | None = None  # when event ``last`` was signed at the latest
    boot: Boot | None = None  # the run that said it
    quarantined: Contradiction | None = None


class ChainFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All chains of a subscriber, the least recently used first."""

    version: Literal[1]
    chains: Annotated[tuple[ChainRecord, ...], msgspec.Meta(max_length=MAX_CHAINS)]


class Chain:
    """One unit's chain under one key."""

    __slots__ = (
        "_admitted",
        "_boot",
        "_expected",
        "_here",
        "_known",
        "_last",
        "_missing",
        "before",
        "given_up",
        "quarantined",
    )

    def __init__(self, record: ChainRecord | None = None) -> None:
        self._last = record.last if record else 0
        self._known = dict(record.known) if record else {}  # digests of accepted events
        self._expected = dict(record.expected) if record else {}  # digests that missing events must have
        self._missing = [Gap(*pair) for pair in record.missing] if record else []
        self._admitted = [Admission(*entry) for entry in record.admitted] if record else []
        self._here = record.here if record else None
        self._boot = record.boot if record else None
        self.quarantined = record.quarantined if record else None
        self.given_up: list[Gap] = []  # for want of room, and not told yet
        self.before: int | None = None  # before the first event: the last number that was sent before this one listened

    @property
    def last(self) -> int:
        """The highest number accepted; 0 before the first."""
        return self._last

    def contradicts(self, seq: int, digest: str) -> bool:
        """Whether event ``seq`` is known, and is another one."""
        return digest != self._known.get(seq, digest) or digest != self._expected.get(seq, digest)

    def place(self, entry: Entry) -> Placement:
        """Say where an event stands, changing nothing; VerificationError with the reason why it stands nowhere."""
        seq = entry.seq
        if self.contradicts(seq, entry.digest):
            raise VerificationError("fork", "the unit signed two different events with one number")
        if seq in self._known:
            raise VerificationError("duplicate", "this event was accepted before")
        if seq < self._last and seq not in self._expected and self._overtaken(entry):
            raise VerificationError("overtaken", f"the unit signed number {seq} after {self._last}: two count on")
        late = self._is_missing(seq)
        if seq <= self._last and not late:
            raise VerificationError("replayed", "this event is older than what was accepted before")
        if self._known.get(seq - 1, entry.prev) != entry.prev:
            raise VerificationError("fork", "the event follows another history than the one known")
        # A subscriber that starts in the middle of a unit's life misses nothing that it was ever sent.
        base = self._last or self.before
        jump = 0 if base is None else seq - base - 1
        if jump > MAX_JUMP + JUMP_PER_S * self._s_since(entry):
            raise VerificationError("jump", f"the unit skips {jump} numbers: more than it can have said")
        return Placement(Gap(seq - jump, seq - 1) if jump > 0 else None, late)

    def accept(self, entry: Entry) -> Placement:
        """Take an event, or raise what ``place`` does and change nothing."""
        placement = self.place(entry)
        seq = entry.seq
        if placement.late:
            self._strike(seq, seq)
        if placement.gap:
            self._bound([*self._missing, placement.gap])
        if seq > self._last:
            self._last, self._here, self._boot = seq, entry.here, entry.boot
        self._known[seq] = entry.digest
        if len(self._known) > KNOWN_EVENTS:
            del self._known[min(self._known)]
        self._expected[seq - 1] = entry.prev
        self._settle()
        return placement

    def _s_since(self, entry: Entry) -> int:
        """How long before this event the last one was here, 0 before the first."""
        return 0 if self._here is None else max(entry.here - self._here, 0)

    def _overtaken(self, entry: Entry) -> bool:
        """Whether this lower number was signed when a higher one was already here."""
        if entry.signed is None or self._here is None:
            return False
        # Of an earlier run comes, live and late, what was signed before this run began: a broker may reorder topics.
        another = entry.fresh and self._boot is not None and entry.boot != self._boot
        return entry.signed >= self._here if another else entry.signed > self._here + OVERTAKEN_S

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

    def give_up(self, gap: Gap) -> int:
        """Strike out what the unit keeps no more; how many of these numbers were missing."""
        inside = (Gap(max(one.first, gap.first), min(one.last, gap.last)) for one in self._missing)
        count = sum(max(one.count, 0) for one in inside)
        if count:
            self._strike(gap.first, gap.last)
            self._settle()
        return count

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
            self._here,
            self._boot,
            self.quarantined,
        )

    def _settle(self) -> None:
        """Close the admissions that leave nothing open."""
        if not self._missing and not self._admitted:  # as nearly always
            self._expected.clear()
            return
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
        self._bound(list(rest))

    def _bound(self, missing: list[Gap]) -> None:
        """Keep the newest ranges; what has to go is told."""
        self.given_up += missing[:-MISSING_RANGES]
        self._missing = missing[-MISSING_RANGES:]


class Chains:
    """The chains of all units, bounded; the least recently used is forgotten first."""

    def __init__(self, content: bytes | Iterable[ChainRecord] | None = None) -> None:
        """Start empty, from ``export`` or from records; StorageError when what was exported is damaged."""
        self._chains: OrderedDict[tuple[str, str], Chain] = OrderedDict()
        self._changed: set[tuple[str, str]] = set()
        for record in read_chains(content) if isinstance(content, bytes) else content or ():
            self._chains[record.source, record.kid] = Chain(record)

    def find(self, source: str, kid: str) -> Chain:
        """Find a chain; a new one when the unit was not heard before."""
        return self._chains.get((source, kid)) or Chain()

    def keep(self, source: str, kid: str, chain: Chain) -> None:
        """Store a chain as the most recently used."""
        self._chains[source, kid] = chain
        self._chains.move_to_end((source, kid))
        self._changed.add((source, kid))
        while len(self._chains) > MAX_CHAINS:
            # A quarantine is never forgotten; of those there are as many as keys that the site ever listed.
            oldest = next((key for key, one in self._chains.items() if not one.quarantined), None)
            if oldest is None:
                break
            del self._chains[oldest]

    def take_changed(self) -> list[ChainRecord]:
        """Write down the chains that changed since the last call."""
        changed, self._changed = self._changed, set()
        return [self._chains[key].record(*key) for key in changed if key in self._chains]

    def quarantined(self) -> dict[tuple[str, str], str]:
        """The quarantined keys: source and key id, with the reason."""
        return {key: chain.quarantined for key, chain in self._chains.items() if chain.quarantined}

    def missing(self, source: str) -> tuple[Gap, ...]:
        """List what is missing of a unit under any of its keys."""
        return tuple(gap for (held, _), chain in self._chains.items() if held == source for gap in chain.missing())

    def all_missing(self) -> dict[str, tuple[Gap, ...]]:
        """List what is missing, by unit; units of which nothing is are left out."""
        found: dict[str, tuple[Gap, ...]] = {}
        for (source, _), chain in sorted(self._chains.items()):
            if gaps := chain.missing():
                unit = source.rpartition("/")[2]
                found[unit] = (*found.get(unit, ()), *gaps)
        return found

    def give_up(self, source: str, gap: Gap) -> int:
        """Do it under each key of a unit that is not quarantined."""
        count = 0
        for key, chain in list(self._chains.items()):
            if key[0] == source and not chain.quarantined and (struck := chain.give_up(gap)):
                count += struck
                self._changed.add(key)
        return count

    def take_given_up(self) -> list[tuple[str, Gap]]:
        """Sources and ranges that chains gave up for want of room since the last call."""
        found = [(key[0], gap) for key in self._changed if key in self._chains for gap in self._chains[key].given_up]
        for key in self._changed & self._chains.keys():
            self._chains[key].given_up = []
        return found

    def heard(self, source: str) -> int:
        """The highest number of a unit under any of its keys; 0 when nothing was heard, or one is quarantined."""
        chains = [chain for (held, _), chain in self._chains.items() if held == source]
        return 0 if any(chain.quarantined for chain in chains) else max((chain.last for chain in chains), default=0)

    def export(self) -> bytes:
        """Write everything down for the next start."""
        records = tuple(chain.record(source, kid) for (source, kid), chain in self._chains.items())
        return msgspec.json.encode(ChainFile(1, records))


def read_chains(content: bytes) -> tuple[ChainRecord, ...]:
    """Read what ``export`` wrote, also a release before; StorageError when it is damaged."""
    try:
        return decode(content, ChainFile, MAX_STATE_BYTES).chains
    except StrictJsonError:
        raise DamagedError(DAMAGED) from None
