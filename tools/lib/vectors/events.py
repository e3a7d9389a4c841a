# SPDX-License-Identifier: Apache-2.0
"""Single events before a verifier that has seen none: whom they are from, where and when they came."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tools.lib.vectors.build import (
    DIGEST,
    DOOR_3,
    DOOR_3_BEFORE,
    DOOR_4,
    EVENT,
    GATE_1,
    NOW,
    SITE_KEY,
    STRANGER,
    TIME,
    UNTIL,
    Members,
    accepted,
    case,
    entry,
    event,
    file,
    payload,
    refused,
    shown_keys,
    sign_list,
    signed,
    topic,
    unit_list,
    without,
)
from tools.lib.vectors.event_forms import form_cases
from tools.lib.vectors.event_signatures import forged, signature_cases


def events() -> Members:
    """Content of ``events.json``."""
    cases = [*_kinds(), *form_cases(), *signature_cases(), *_units(), *_lists(), *_topics(), *_times(), *_order()]
    return file("events", cases, keys=shown_keys(), site_key=SITE_KEY.jwk, trust=sign_list(unit_list()))


def _kinds() -> Iterator[Members]:
    match = event()
    yield case("match", "an enrolled person was recognised", payload(match), accepted(match))
    sealed = event(data={"subject": "s1_" + "A" * 86})
    yield case("match-sealed", "a sealed subject is as good as a pseudonym", payload(sealed), accepted(sealed))
    token = event(data={"method": "token", "liveness": "passed"})
    yield case("match-by-token", "the other method, the other word on liveness", payload(token), accepted(token))
    for granted in ("strike", " ".join(f"gate-{number}" for number in range(8))):
        opens = event(data={"liveness": "passed", "granted": granted})
        name = "match-granted" if " " not in granted else "match-granted-eight"
        yield case(name, "the event itself says what it opens", payload(opens), accepted(opens))
    for state in ("arrived", "left"):
        said = event("presence", data={"state": state})
        yield case(f"presence-{state}", "somebody came or went", payload(said), accepted(said), where=topic("presence"))
    for condition in ("camera_lost", "camera_back", "tamper", "clock_step", "storage_low", "started", "stopping"):
        said = event("unit", data={"condition": condition})
        yield case(f"unit-{condition}", "the unit about itself", payload(said), accepted(said), where=topic("unit"))
    lost = {"first": 1, "last": 4, "count": 3, "reason": "full"}
    for reason in ("full", "erased"):
        said = event("unit", seq=9, data={"condition": "loss", "lost": {**lost, "reason": reason}})
        yield case(
            f"unit-loss-{reason}", "numbers that will not come", payload(said), accepted(said), where=topic("unit")
        )
    null = event("unit", data={"lost": None})
    comment = "an optional member that is null is as if it were absent; it is under the signature all the same"
    yield case("unit-lost-null", comment, payload(null), accepted(null), where=topic("unit"))
    highest = event(seq=2**53 - 1, prev=DIGEST)
    comment = "the highest number; a verifier that begins in the middle of a unit's life misses nothing"
    yield case("seq-highest", comment, payload(highest), accepted(highest))
    named = event(data={"zone": "z" * 64, "audience": "0-9"})
    yield case("zone-64-characters", "the longest name", payload(named), accepted(named))
    week = event(data={"epoch": "2026-W99"})
    yield case("epoch-without-such-week", "of an epoch only the form is checked", payload(week), accepted(week))


def _units() -> Iterator[Members]:
    said = event()
    yield case(
        "key-not-listed", "signed well, by nobody the site knows", payload(said, STRANGER), refused("unknown_unit")
    )
    yield case("key-of-the-site", "the site's own key is no unit's", payload(said, SITE_KEY), refused("unknown_unit"))
    for name, kid in (("empty", ""), ("constructor", "constructor"), ("other-spelling", DOOR_3.kid + "=")):
        content = payload(said, kid=kid)
        yield case(f"kid-{name}", "a kid is compared as text", content, refused("unknown_unit"))
    comment = "door-4 signs in the name of door-3"
    yield case("kid-of-another-unit", comment, payload(said, DOOR_4), refused("wrong_key"))
    comment = "door-3 signs, and claims the kid of door-4"
    yield case("claims-kid-of-another-unit", comment, payload(said, kid=DOOR_4.kid), refused("wrong_key"))
    annex = event(source="/postern/annex/door-3")
    where = "postern/annex/door-3/event/match"
    yield case("source-of-another-site", "the list is of site hq", payload(annex), refused("wrong_key"), where=where)
    yield case(
        "revoked-key",
        "it was honest once",
        payload(event(unit="gate-1"), GATE_1),
        refused("revoked"),
        where=topic(unit="gate-1"),
    )
    yield case(
        "revoked-key-backlog",
        "what waited is not believed either",
        payload(event(unit="gate-1"), GATE_1),
        refused("revoked"),
        where=topic(unit="gate-1", leaf="backlog"),
    )
    old = payload(said, DOOR_3_BEFORE)
    backlog = topic(leaf="backlog")
    late = accepted(said, backlog=True, fresh=False)
    yield case("replaced-key", "a replaced key counts until its last moment", old, late, where=backlog)
    comment = "what is said now is said with the new key"
    yield case("replaced-key-live", comment, old, refused("revoked"))
    comment = "the last moment itself still counts; what counts is the verifier's now, not the event's time"
    yield case("replaced-key-last-moment", comment, old, late, where=backlog, now=UNTIL)
    yield case(
        "replaced-key-too-late", "one second after", old, refused("revoked"), where=backlog, now="2026-11-22T12:00:01Z"
    )


def _lists() -> Iterator[Members]:
    """Lists of version 2, which end and bind a replaced key to its last number."""
    said, content, backlog = event(), payload(event()), topic(leaf="backlog")
    ending = unit_list(version=2, expires_at=NOW)
    trust = sign_list(ending)
    yield case("list-last-moment", "the last moment of the list still counts", content, accepted(said), trust=trust)
    ended = {"trust": trust, "now": "2026-11-22T09:41:06Z"}
    yield case("list-ended", "a list that has ended says nothing about anybody", content, refused("expired"), **ended)
    late = {**ended, "where": backlog}
    yield case("list-ended-backlog", "nor about what waited", content, refused("expired"), **late)
    revoked = payload(event(unit="gate-1"), GATE_1)
    late = {**ended, "where": topic(unit="gate-1")}
    yield case("list-ended-and-revoked", "the list is looked at first", revoked, refused("expired"), **late)
    bound = [entry(DOOR_3), entry(DOOR_3_BEFORE, until=UNTIL, last_seq=4)]
    trust = sign_list(unit_list(version=2, expires_at="2027-12-24T00:00:00Z", units={"door-3": bound}))
    for seq in (4, 5):
        members = event(seq=seq, prev=DIGEST)
        expect = accepted(members, backlog=True, fresh=False) if seq == 4 else refused("revoked")
        comment = "the site knows the last number of the replaced key: 4"
        yield case(f"last-seq-{seq}", comment, payload(members, DOOR_3_BEFORE), expect, where=backlog, trust=trust)
    live = payload(event(seq=4, prev=DIGEST), DOOR_3_BEFORE)
    yield case("last-seq-live", "a bound key does not speak live", live, refused("revoked"), trust=trust)


def _topics() -> Iterator[Members]:
    said = event()
    content = payload(said)
    late = accepted(said, backlog=True, fresh=False)
    yield case(
        "backlog",
        "a late event is welcome there, and is never fresh",
        content,
        late,
        where=topic(leaf="backlog"),
        now="2026-12-24T18:00:00Z",
    )
    yield case("backlog-at-once", "on the backlog nothing is fresh", content, late, where=topic(leaf="backlog"))
    unit = "postern/hq/door-4"
    for name, where in {
        "another-unit": f"{unit}/event/match",
        "another-unit-backlog": f"{unit}/backlog/match",
        "another-site": "postern/annex/door-3/event/match",
        "another-root": "other/hq/door-3/event/match",
        "upper-case-unit": "postern/hq/DOOR-3/event/match",
    }.items():
        comment = "right after the third level, wrong before it"
        yield case(f"topic-of-{name}", comment, content, refused("wrong_unit"), where=where)
    for name, where in {
        "another-kind": "postern/hq/door-3/event/presence",
        "another-kind-of-another-unit": f"{unit}/event/presence",
        "another-leaf": "postern/hq/door-3/response/match",
        "no-kind": "postern/hq/door-3/event",
        "one-level-more": "postern/hq/door-3/event/match/x",
        "trailing-slash": "postern/hq/door-3/event/match/",
        "leading-slash": "/postern/hq/door-3/event/match",
        "final-nul": "postern/hq/door-3/event/match\x00",
        "empty": "",
    }.items():
        comment = "no topic for this event, whoever's it is"
        yield case(f"topic-{name}", comment, content, refused("wrong_topic"), where=where)


def _times() -> Iterator[Members]:
    said = event()
    content = payload(said)
    backlog = topic(leaf="backlog")
    yield case("ten-seconds-ahead", "clocks may differ by 10 s", content, accepted(said), now="2026-11-22T09:40:53Z")
    ahead = {"now": "2026-11-22T09:40:52Z"}
    stale, late = accepted(said, fresh=False), accepted(said, backlog=True, fresh=False)
    comment = "one more, and it is not fresh; it is taken, for a wrong clock must not lose an event"
    yield case("eleven-seconds-ahead", comment, content, stale, **ahead)
    yield case("backlog-from-the-future", "taken, and never fresh", content, late, where=backlog, **ahead)
    comment = "60 s fresh window + 10 s for the clocks + 1 s because times are rounded down"
    yield case("live-71-seconds", comment, content, accepted(said), now="2026-11-22T09:42:14Z")
    yield case("live-72-seconds", "held back: taken, and not fresh", content, stale, now="2026-11-22T09:42:15Z")
    comment = "a part of a second counts as well: 71.5 s; the age that is told is in whole seconds, rounded down"
    yield case("live-71-and-a-half", comment, content, stale, now="2026-11-22T09:42:14.500Z")
    comment = "an age is told up to 366 days"
    for name, now in (("twenty-years-old", "2046-11-22T09:41:03Z"), ("twenty-years-ahead", "2006-11-22T09:41:03Z")):
        yield case(name, comment, content, stale, now=now)
    hourly = event(time="2026-11-22T09:00:00Z")
    comment = "units that round down to the hour: the verifier is told time_step_s"
    yield case("coarse-time", comment, payload(hourly), accepted(hourly), time_step_s=3600)
    yield case("coarse-time-untold", "without it the same is stale", payload(hourly), accepted(hourly, fresh=False))
    unsynced = event(clock="unsynced", time="1970-01-01T00:00:07Z")
    comment = "no clock: nothing to compare, in neither direction, and never fresh"
    yield case("unsynced-past", comment, payload(unsynced), accepted(unsynced, fresh=False))
    unsynced = event(clock="unsynced", time="2099-12-31T23:59:59Z")
    yield case("unsynced-future", comment, payload(unsynced), accepted(unsynced, fresh=False))
    leap = event(time="2028-02-29T23:59:59Z")
    yield case(
        "leap-day", "a day that exists every fourth year", payload(leap), accepted(leap), now="2028-03-01T00:00:01Z"
    )
    for name, time in {
        "february-30": "2026-02-30T09:41:03Z",
        "leap-day-in-a-common-year": "2026-02-29T09:41:03Z",
        "leap-day-in-2100": "2100-02-29T09:41:03Z",
        "month-13": "2026-13-01T09:41:03Z",
        "hour-24": "2026-11-22T24:00:00Z",
        "minute-60": "2026-11-22T09:60:00Z",
        "leap-second": "2026-12-31T23:59:60Z",
        "year-0": "0000-01-01T00:00:00Z",
        "year-10000": "10000-01-01T00:00:00Z",
        "with-offset": "2026-11-22T10:41:03+01:00",
        "lower-case": "2026-11-22t09:41:03z",
        "with-fraction": "2026-11-22T09:41:03.5Z",
        "without-zone": "2026-11-22T09:41:03",
        "arabic-digits": "٢٠٢٦-11-22T09:41:03Z",
        "line-feed": TIME + "\n",
    }.items():
        wrong = event(time=time, clock="unsynced")
        yield case(f"time-{name}", "no moment in the one form", payload(wrong), refused("malformed"))


def _order() -> Iterator[Members]:
    """Two things are wrong: the earlier check speaks."""
    none: Members = {"alg": "none"}
    other = topic("presence", unit="door-4")
    extra, nobody = event(extra=1), event(unit="door-9")
    for name, content, reason, more in (
        ("too-large-and-not-json", b"{" * 4097, "too_large", {}),
        ("unsigned-and-unknown-kind", b'{"type":"x"}', "unsigned", {}),
        ("unsigned-and-extra-member", _compact(extra), "unsigned", {}),
        ("unknown-kind-and-extra-member", payload(event(type="x", extra=1)), "wrong_type", {}),
        ("extra-member-and-alg-none", payload(extra, **none), "malformed", {}),
        ("alg-none-and-other-purpose", payload(event(), alg="none", typ="x"), "unsecured", {}),
        ("other-alg-and-other-purpose", payload(event(), alg="ES384", typ="x"), "wrong_algorithm", {}),
        ("other-purpose-and-unknown-key", payload(event(), STRANGER, typ="x"), "wrong_type", {}),
        ("unknown-key-and-unknown-source", payload(nobody, STRANGER), "unknown_unit", {}),
        ("key-of-another-and-wrong-topic", payload(event(), DOOR_4), "wrong_key", {"where": other}),
        ("topic-of-another-and-bad-signature", forged(event()), "wrong_unit", {"where": topic(unit="door-4")}),
        ("wrong-topic-and-bad-signature", forged(event()), "wrong_topic", {"where": other}),
        (
            "bad-signature-and-revoked",
            forged(event(unit="gate-1"), GATE_1),
            "bad_signature",
            {"where": topic(unit="gate-1")},
        ),
    ):
        yield case(f"order-{name}", "two faults: the earlier check speaks", content, refused(reason), **more)
    comment = "a signature over another purpose is no signature over an event, whatever else fits"
    lent = signed(without(event(), "sig"), typ=EVENT.replace("event", "health"))
    yield case("order-other-purpose", comment, _compact(lent), refused("wrong_type"))


def _compact(members: Members) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()
