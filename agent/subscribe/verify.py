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
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from agent.errors import VerificationError, printable
from agent.keys import Header, check_algorithm, read_header
from agent.parse import strict_json
from agent.protocol.event import EVENT_TYPES, MAX_EVENT_BYTES, SIGNATURE_TYPE, Event, Kind, UnitData, canonical, digest
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

FRESH_WINDOW_S = 60  # seconds; above the unit's own live window, so that a slow network makes nothing stale
CLOCK_SKEW_S = 10  # two clocks that follow a time server differ by far less; more would let a held-back event be fresh
MAX_AGE_S = 366 * 24 * 3600  # an age is told up to a year, either way: a clock that is further off is just wrong


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
        members = _parse(payload)
        event, said_at = _read(members)
        header = _read_signature_header(event.sig)
        trusted = self._trusted(header, event)
        expected_backlog = self._check_topic(topic, event)
        backlog = expected_backlog if backlog is None else backlog
        signed = canonical(members)
        trusted.key.verify_detached(event.sig, signed, typ=SIGNATURE_TYPE)
        self.check_list(now)
        if not (trusted.counts_at(now) and trusted.may_say(event.data.seq, backlog=backlog)):
            raise VerificationError("revoked", f"the key of unit {trusted.unit} no longer counts")
        moment = said_at if event.data.clock == "synced" else None
        age = None if moment is None else (now - moment).total_seconds()
        fresh = not backlog and age is not None and -self._skew_s <= age <= self._oldest_s
        own_digest = digest(signed)
        entry = Entry(
            seq=event.data.seq,
            prev=event.data.prev,
            digest=own_digest,
            boot=event.data.boot,
            signed=None if moment is None else math.floor(moment.timestamp()),
            now=math.floor(now.timestamp()),
            fresh=fresh,
        )
        chain = self._chains.find(event.source, header.kid)
        began = self._began.get((event.source, header.kid))
        if began is not None and entry.seq - began <= MAX_JUMP:  # beyond it, a report of long ago was said again
            chain.before = began
        place = self._placed(chain, entry, event.source, header.kid)
        self._began.pop((event.source, header.kid), None)
        if isinstance(event.data, UnitData) and event.data.lost is not None:
            chain.explain(event.data.lost)
        self._chains.keep(event.source, header.kid, chain)
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

    def check_health(self, topic: str, payload: bytes, now: datetime) -> tuple[str, Health, int | None]:
        """Check a health document: the unit, the document, and how many of its events are withheld.

        Of a key of which no event was heard yet, those since its first report are. None where nothing can be said, or
        what was withheld has become a gap. Raises VerificationError; a head that contradicts the chain (``fork``)
        quarantines the key.
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
            return unit, report, max(sent - self._began.setdefault((report.source, kid), max(sent, 0)), 0) or None
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


def _parse(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_EVENT_BYTES:
        raise VerificationError("too_large", f"an event is never longer than {MAX_EVENT_BYTES} bytes")
    try:
        members = strict_json.loads(payload, limit=MAX_EVENT_BYTES)
    except strict_json.StrictJsonError as error:
        raise VerificationError("malformed", f"the event is not usable JSON: {error}") from None
    if not isinstance(members, dict):
        raise VerificationError("malformed", "the event is not a JSON object")
    return members


def _read(members: dict[str, Any]) -> tuple[Event, datetime]:
    if members.get("sig") in (None, ""):
        raise VerificationError("unsigned", "the event has no signature")
    data = members.get("data")
    kind = data.get("event_type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in EVENT_TYPES or members.get("type") != EVENT_TYPES[kind]:
        raise VerificationError("wrong_type", "the event is of an unknown kind, or its data is of another kind")
    try:
        event = strict_json.convert(members, Event)
        moment = event.moment
    except ValueError as error:
        raise VerificationError("malformed", f"a field of the event is wrong: {printable(str(error))}") from None
    if event.id != f"{event.data.boot}-{event.data.seq}":
        raise VerificationError("malformed", "the event's id is not its boot and number")
    if isinstance(event.data, UnitData) and (event.data.condition == "loss") != (event.data.lost is not None):
        raise VerificationError("malformed", "a loss event must say what was lost, and no other may")
    if isinstance(event.data, UnitData) and (lost := event.data.lost) and lost.count > lost.last - lost.first + 1:
        raise VerificationError("malformed", "a loss event says that more was lost than it names numbers")
    return event, moment


def _read_signature_header(signature: str) -> Header:
    header = read_header(signature)
    check_algorithm(header)
    if header.typ != SIGNATURE_TYPE:
        raise VerificationError("wrong_type", "the signature was not made for an event")
    return header
