# SPDX-License-Identifier: Apache-2.0
"""Is this event true? The one check that a subscriber needs; it runs without a camera, a model or numpy.

An event is accepted when all of this holds, in this order; each refusal has its own stable reason:

1.  it is not longer than an event can be: ``too_large``
2.  it is JSON with one reading, without floats or duplicate keys: ``malformed``
3.  it is signed at all: ``unsigned``
4.  it is a known kind of event, and its data is of that kind: ``wrong_type``
5.  every field is one that an event may have, in its form: ``malformed``
6.  the signature's header names ES256 and the purpose "event", nothing else: ``unsecured`` for "none",
    ``wrong_algorithm``, ``wrong_type``, ``malformed``
7.  the site lists the key: ``unknown_unit``
8.  the key is the one of the unit that the event names as its source: ``wrong_key``
9.  it came on a topic of that unit, ``wrong_unit``, and on the one for this kind, ``wrong_topic``
10. the signature holds over the canonical bytes (RFC 8785): ``bad_signature``
11. the list has not ended, ``expired``, and the key was not revoked, nor replaced too long ago; a replaced key comes as
    backlog alone, and never beyond its last number: ``revoked``
12. the key is not quarantined: ``quarantined``
13. it continues the unit's chain: ``replayed``, ``duplicate`` (a gap is reported, not refused), or, and then the key is
    quarantined until a person decides: ``fork``, ``overtaken``, ``jump``

No time refuses an event: a clock that is wrong must not lose one, and it is the chain that lets each number pass only
once. Whether the event is of this moment, and how old it is, is told.

What acceptance means: this unit's key said so, in this order, nothing was altered, and nothing before it
was taken away unnoticed. What it does not mean: that a living person stood there, or that the camera is
honest; and what was cut off after the last event shows only in the next one, or in ``health``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from agent.errors import VerificationError
from agent.keys import Header
from agent.parse import strict_json
from agent.protocol.event import SIGNATURE_TYPE, Event, Kind, UnitData, digest
from agent.protocol.health import Health
from agent.protocol.names import TOPIC_ROOT
from agent.protocol.trust import TrustedKey, TrustedUnits
from agent.subscribe.chain import (
    MAX_JUMP,
    QUARANTINING,
    Chain,
    ChainRecord,
    Chains,
    Contradiction,
    Entry,
    Gap,
    Placement,
)
from agent.subscribe.heads import check_health
from agent.subscribe.reading import read_event, read_event_header

FRESH_WINDOW_S = 60  # seconds; above the unit's own live window, so that a slow network makes nothing stale
CLOCK_SKEW_S = 10  # two clocks that follow a time server differ by far less; more would let a held-back event be fresh
DELAY_S = 10  # seconds that a report takes at most: one that took longer says nothing about when its unit began
MAX_AGE_S = 366 * 24 * 3600  # an age is told up to a year, either way: a clock that is further off is just wrong


A = TypeVar("A")
B = TypeVar("B")


class VerifiedEvent(msgspec.Struct, frozen=True):
    """An accepted event.

    ``fresh``: it came live, and its time was checked against a clock that both sides believe. What opens a
    door must ask for it. ``age_s``: whole seconds from its time to now, negative when it is ahead, a year at most;
    None when the unit did not know the time. ``gap``: numbers that were skipped right before it. ``late``: it fills
    an earlier gap. ``digest`` is what its successor names as ``prev``. ``repeat``: it may have been handed over before.
    """

    event: Event
    unit: str
    kind: Kind
    backlog: bool
    fresh: bool
    late: bool
    gap: Gap | None
    digest: str
    age_s: int | None = None
    repeat: bool = False


class _Examined(NamedTuple):
    """An event that is proved by nothing yet; ``signed`` are the bytes that its signature has to cover."""

    event: Event
    moment: datetime
    signed: bytes
    trusted: TrustedKey
    backlog: bool


class Loss(msgspec.Struct, frozen=True):
    """Events that never came, and that the unit, when asked, said it keeps no more.

    ``count`` of the numbers of ``gap`` were missing here. ``repeat``: it may have been handed over before.
    """

    unit: str
    gap: Gap
    count: int
    repeat: bool = False


class Verifier:
    """Checks events of one site and remembers each unit's chain. Use it from one thread at a time."""

    def __init__(
        self,
        trust: TrustedUnits,
        *,
        state: bytes | Iterable[ChainRecord] | None = None,
        fresh_window_s: int = FRESH_WINDOW_S,
        skew_s: int = CLOCK_SKEW_S,
        time_step_s: int = 1,
    ) -> None:
        """Start from the site's list and, after a restart, from what ``export`` or ``take_changed`` gave.

        ``fresh_window_s`` and ``skew_s`` set how old, and how far ahead, a fresh event may be; ``time_step_s`` is the
        coarsest step that the units round their times down to. Raises StorageError when ``state`` is damaged.
        """
        self._trust = trust
        self._chains = Chains(state)
        # Of keys of which no event was heard yet, by source and key: the last number that the first report calls sent,
        # 0 where the unit came onto the list meanwhile.
        self._began: dict[tuple[str, str], int] = {}
        self._oldest_s = fresh_window_s + skew_s + time_step_s
        self._skew_s = skew_s

    def update_trust(self, trust: TrustedUnits) -> None:
        """Take a newer list; VerificationError (``replayed``) for an older one, ``wrong_site`` for another site's."""
        if trust.site != self._trust.site:
            raise VerificationError("wrong_site", "this list is of another site: fetch the list of this one")
        if trust.serial < self._trust.serial:
            raise VerificationError("replayed", "this list of units is older than the one in use: fetch it again")
        known = self._trust.units()
        for key in trust.all_keys():
            if key.unit not in known:  # it joined meanwhile: whatever it said is missed here from its first event on
                self._began.setdefault((f"/{TOPIC_ROOT}/{trust.site}/{key.unit}", key.key.kid), 0)
        self._trust = trust

    def check_list(self, now: datetime) -> None:
        """Raise VerificationError (``expired``) when the site's list of units has ended."""
        if self._trust.expired_at(now):
            raise VerificationError("expired", "the site's list of units has ended: fetch the new one")

    def check(self, topic: str, payload: bytes, now: datetime, *, backlog: bool | None = None) -> VerifiedEvent:
        """Check one message and remember its event.

        ``backlog`` says whether an old event is expected, as when stored events are audited; by default the topic
        says it. Raises VerificationError with one of the reasons above, and nothing else, whatever the bytes are;
        a refused event changes no state.
        """
        one = self._examine(topic, payload, backlog=backlog)
        _prove(one)
        return self._accept(one, now)

    def check_all(
        self, messages: Iterable[tuple[str, bytes]], now: datetime
    ) -> list[VerifiedEvent | VerificationError]:
        """Check topics and payloads in their order, as ``check`` does: of each its event, or why it is refused.

        Each step is done for all before the next: a processor's caches do not hold the code of all of them at once.
        """
        found = [_go_on(lambda message: self._examine(*message), message) for message in messages]
        proved = [_go_on(_prove, one) for one in found]
        return [_go_on(lambda one: self._accept(one, now), one) for one in proved]

    def _examine(self, topic: str, payload: bytes, *, backlog: bool | None = None) -> _Examined:
        """Do what needs neither the signature nor the chain: 1 to 9."""
        event, moment, signed = read_event(payload)
        header = read_event_header(event.sig)
        trusted = self._trusted(header, event)
        came_late = self._check_topic(topic, event)
        return _Examined(event, moment, signed, trusted, came_late if backlog is None else backlog)

    def _accept(self, one: _Examined, now: datetime) -> VerifiedEvent:
        """Do the rest, of an event whose signature holds: 11 to 13."""
        event, trusted, backlog = one.event, one.trusted, one.backlog
        self.check_list(now)
        if not (trusted.counts_at(now) and trusted.may_say(event.data.seq, backlog=backlog)):
            raise VerificationError("revoked", f"the key of unit {trusted.unit} no longer counts")
        moment = one.moment if event.data.clock == "synced" else None
        age = None if moment is None else (now - moment).total_seconds()
        fresh = not backlog and age is not None and -self._skew_s <= age <= self._oldest_s
        own_digest = digest(one.signed)
        entry = Entry(
            seq=event.data.seq,
            prev=event.data.prev,
            digest=own_digest,
            boot=event.data.boot,
            signed=None if moment is None else math.floor(moment.timestamp()),
            now=math.floor(now.timestamp()),
            fresh=fresh,
        )
        kid = trusted.key.kid
        chain = self._chains.find(event.source, kid)
        began = self._began.get((event.source, kid))
        if began is not None and entry.seq - began <= MAX_JUMP:  # beyond it, a report of long ago was said again
            chain.before = began
        place = self._placed(chain, entry, event.source, kid)
        self._began.pop((event.source, kid), None)
        if isinstance(event.data, UnitData) and event.data.lost is not None:
            chain.explain(event.data.lost)
        self._chains.keep(event.source, kid, chain)
        return VerifiedEvent(
            event=event,
            unit=trusted.unit,
            kind=event.kind,
            backlog=backlog,
            fresh=fresh,
            late=place.late,
            gap=place.gap,
            digest=own_digest,
            age_s=None if age is None else max(-MAX_AGE_S, min(math.floor(age), MAX_AGE_S)),
        )

    def missing(self, unit: str) -> tuple[Gap, ...]:
        """List the numbers of a unit that never came and that it did not own up to."""
        return self._chains.missing(f"/{TOPIC_ROOT}/{self._trust.site}/{unit}")

    def export(self) -> bytes:
        """Write the chains down, so that a restarted subscriber goes on where it stopped."""
        return self._chains.export()

    def take_changed(self) -> list[ChainRecord]:
        """Write down the chains that changed since the last call."""
        return self._chains.take_changed()

    def all_missing(self) -> dict[str, tuple[Gap, ...]]:
        """What ``missing`` says, for each unit of which something is."""
        return self._chains.all_missing()

    def give_up(self, unit: str, gap: Gap) -> int:
        """Take a unit's word that it keeps these events no more; how many of them were missing."""
        return self._chains.give_up(f"/{TOPIC_ROOT}/{self._trust.site}/{unit}", gap)

    def take_given_up(self) -> list[Loss]:
        """What chains with too many gaps gave up since the last call: if it comes now, it is refused as replayed."""
        return [Loss(source.rpartition("/")[2], gap, gap.count) for source, gap in self._chains.take_given_up()]

    def heard(self, unit: str) -> int:
        """The highest number heard of a unit, 0 before the first and while one of its keys is quarantined."""
        return self._chains.heard(f"/{TOPIC_ROOT}/{self._trust.site}/{unit}")

    def knows_all(self, now: datetime) -> bool:
        """Whether units can be asked for whatever they signed that was not heard: under every key that counts.

        Not under a key that was replaced, nor where no number was heard yet. What a quarantined one signs is refused
        anyway.
        """
        for entry in self._trust.counting_at(now):
            chain = self._chains.find(f"/{TOPIC_ROOT}/{self._trust.site}/{entry.unit}", entry.key.kid)
            if not chain.quarantined and (entry.until is not None or not chain.last):
                return False
        return True

    @property
    def trust(self) -> TrustedUnits:
        """The list in use."""
        return self._trust

    def quarantined(self) -> dict[str, str]:
        """Units of which a key is quarantined, with the reason."""
        return {source.rpartition("/")[2]: reason for (source, _), reason in self._chains.quarantined().items()}

    def check_health(
        self, topic: str, payload: bytes, now: datetime, listening_s: float = 0
    ) -> tuple[str, Health, int | None]:
        """Check a health document: the unit, the document, and how many of its events are withheld.

        Of a key of which no event was heard yet, those since its first report are, and one at least where the unit
        began to run within the last ``listening_s`` seconds, in which all was heard: it says so in an event. None where
        nothing can be said, or what was withheld has become a gap. Raises VerificationError; a head that contradicts
        the chain (``fork``) quarantines the key.
        """
        unit, kid, report = check_health(topic, payload, self._trust, now)
        chain = self._chains.find(report.source, kid)
        if chain.contradicts(report.head.seq, report.head.digest) and not chain.quarantined:
            self._quarantine(chain, report.source, kid, "fork")
            raise VerificationError("fork", "the unit's health speaks of another event with a number that is known")
        if chain.quarantined:
            return unit, report, None
        sent = report.head.seq - report.queue_depth
        if not chain.last:
            said = report.queue_depth == 0 and report.uptime_s + DELAY_S < listening_s
            began = max(sent - said, 0)
            return unit, report, max(sent - self._began.setdefault((report.source, kid), began), 0) or None
        tail = max(sent - chain.last, 0)
        return unit, report, None if not tail and chain.missing() else tail

    def _trusted(self, header: Header, event: Event) -> TrustedKey:
        trusted = self._trust.find(header.kid)
        if trusted is None:
            raise VerificationError(
                "unknown_unit",
                f"list {self._trust.serial} of the site's units does not have the key of this event: if the unit joined"
                " later, fetch the newest trust.jws",
            )
        if event.source != f"/{TOPIC_ROOT}/{self._trust.site}/{trusted.unit}":
            raise VerificationError("wrong_key", f"unit {trusted.unit} signed an event in another unit's name")
        return trusted

    def _check_topic(self, topic: str, event: Event) -> bool:
        base, kind = event.source.removeprefix("/"), event.kind
        if topic == f"{base}/event/{kind}":
            return False
        if topic == f"{base}/backlog/{kind}":
            return True
        if topic.split("/")[3:] in (["event", kind], ["backlog", kind]):
            raise VerificationError("wrong_unit", f"an event of {event.source} came on another unit's topic")
        raise VerificationError("wrong_topic", f"an event of {event.source} came on another of its topics")

    def _placed(self, chain: Chain, entry: Entry, source: str, kid: str) -> Placement:
        """Take the event into its chain; what shows a second unit quarantines the key."""
        if chain.quarantined:
            raise VerificationError("quarantined", f"the key is quarantined ({chain.quarantined}) until you release it")
        try:
            return chain.accept(entry)
        except VerificationError as error:
            if error.reason in QUARANTINING:
                self._quarantine(chain, source, kid, error.reason)
            raise

    def _quarantine(self, chain: Chain, source: str, kid: str, reason: str) -> None:
        chain.quarantined = strict_json.convert(reason, Contradiction)  # type: ignore[arg-type]  # a Literal is no type
        self._chains.keep(source, kid, chain)


def _prove(one: _Examined) -> _Examined:
    """Check the signature."""
    one.trusted.key.verify_detached(one.event.sig, one.signed, typ=SIGNATURE_TYPE)
    return one


def _go_on(step: Callable[[A], B], found: A | VerificationError) -> B | VerificationError:
    if isinstance(found, VerificationError):
        return found
    try:
        return step(found)
    except VerificationError as error:
        return error
