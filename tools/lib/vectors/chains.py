# SPDX-License-Identifier: Apache-2.0
"""Sequences of messages: what a verifier must remember of a unit, and what that makes of the next event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import pairwise

import rfc8785

from tools.lib.vectors.build import (
    BOOT,
    DIGEST,
    DOOR_3,
    DOOR_3_BEFORE,
    DOOR_4,
    FIRST_PREV,
    NOW,
    SITE_KEY,
    TIME,
    Members,
    accepted,
    digest,
    event,
    file,
    message,
    payload,
    refused,
    shown_keys,
    sign_list,
    signed,
    topic,
    unit_list,
)
from tools.lib.vectors.event_signatures import forged
from tools.lib.vectors.signing import Key, other_signature

Gap = tuple[int, int]
OTHER_BOOT = "fedcba9876543210"
FRESH_S = 71  # how old a fresh event may be


def seconds(now: str, time: str) -> float:
    """How old an event is."""
    return (datetime.fromisoformat(now) - datetime.fromisoformat(time)).total_seconds()


class Life:
    """The events of one unit under one key, each linked to the one before."""

    def __init__(self, key: Key = DOOR_3, unit: str = "door-3", losses: dict[int, Members] | None = None) -> None:
        self.unit, self._key = unit, key
        self._losses = losses or {}
        self._events = [event("unit", unit=unit)]

    def event(self, seq: int) -> Members:
        """Event ``seq`` of the life; those before it are made when they are needed."""
        while len(self._events) < seq:
            number = len(self._events) + 1
            lost = self._losses.get(number)
            data = {"condition": "loss", "lost": lost} if lost else None
            self._events.append(event("unit", unit=self.unit, seq=number, prev=digest(self._events[-1]), data=data))
        return self._events[seq - 1]

    def ok(
        self, seq: int, *, gap: Gap | None = None, late: bool = False, leaf: str = "event", now: str = NOW
    ) -> Members:
        """The event arrives and is accepted; ``now`` is not that of the event where it is not the usual one."""
        backlog = leaf == "backlog"
        expect = accepted(self.event(seq), gap=gap, late=late, backlog=backlog, fresh=not backlog and now == NOW)
        return self.sent(self.event(seq), expect, leaf=leaf, now=now)

    def other(
        self,
        seq: int,
        reason: str | None = None,
        *,
        now: str = NOW,
        leaf: str = "event",
        boot: str = OTHER_BOOT,
        gap: Gap | None = None,
        late: bool = False,
        time: str = TIME,
        **changes: object,
    ) -> Members:
        """What a second device with the key says: an event of another run, accepted unless there is a reason."""
        data = {"prev": DIGEST, **changes}
        members = event("unit", unit=self.unit, seq=seq, time=time, data={"boot": boot, **data}, id=f"{boot}-{seq}")
        fresh = leaf == "event" and members["data"]["clock"] == "synced" and 0 <= seconds(now, time) <= FRESH_S
        expect = accepted(members, gap=gap, late=late, backlog=leaf == "backlog", fresh=fresh)
        return self.sent(members, refused(reason) if reason else expect, leaf=leaf, now=now)

    def no(self, seq: int, reason: str, *, leaf: str = "event", now: str = NOW, **data: object) -> Members:
        """The event, or with ``data`` another one with its number, arrives and is refused."""
        members = self.event(seq)
        return self.sent({**members, "data": {**members["data"], **data}}, refused(reason), leaf=leaf, now=now)

    def sent(self, members: Members, expect: Members, *, leaf: str = "event", now: str = NOW) -> Members:
        """Any event under this unit's key."""
        where = topic("unit", unit=self.unit, leaf=leaf)
        return message(payload(members, self._key), expect, where=where, now=now)


def chains() -> Members:
    """Content of ``chains.json``."""
    cases = [*_orders(), *_histories(), *_copies(), *_keys(), *_losses(), *_bounds()]
    return file("chains", cases, keys=shown_keys(), site_key=SITE_KEY.jwk, trust=sign_list(unit_list()))


def _case(name: str, comment: str, messages: list[Members], missing: list[Gap] | None = None) -> Members:
    """``missing`` is of door-3, the unit of all cases that leave something open."""
    open_gaps = [list(gap) for gap in missing or []]
    return {"name": name, "comment": comment, "messages": messages, "missing": {"door-3": open_gaps}}


def _orders() -> Iterator[Members]:
    a = Life()
    yield _case("in-order", "each names the digest of the one before", [a.ok(1), a.ok(2), a.ok(3)])
    yield _case("repeated", "the same event again, on whichever leaf", [
        a.ok(1), a.ok(2), a.no(1, "duplicate"), a.no(2, "duplicate"), a.no(2, "duplicate", leaf="backlog"), a.ok(3),
    ])  # fmt: skip
    yield _case("middle-of-a-life", "nothing before the first event that is seen is missing, and none may come", [
        a.ok(5), a.no(4, "replayed"), a.no(1, "replayed", leaf="backlog"), a.ok(6),
    ])  # fmt: skip
    yield _case(
        "gap",
        "a jump is accepted and reported, and what it skipped is missing",
        [a.ok(1), a.ok(6, gap=(2, 5))],
        [(2, 5)],
    )
    yield _case("gap-filled-late", "a missing event is accepted once, in any order", [
        a.ok(1), a.ok(5, gap=(2, 4)), a.ok(3, late=True, leaf="backlog"), a.ok(2, late=True), a.no(3, "duplicate"),
        a.ok(4, late=True), a.no(5, "duplicate"), a.ok(6),
    ])  # fmt: skip
    yield _case("gap-half-filled", "what is left of a gap", [
        a.ok(1), a.ok(9, gap=(2, 8)), a.ok(5, late=True), a.ok(12, gap=(10, 11)),
    ], [(2, 4), (6, 8), (10, 11)])  # fmt: skip
    yield _case("two-gaps-of-one-unit", "a late event neither opens a gap nor moves the end", [
        a.ok(1), a.ok(3, gap=(2, 2)), a.ok(5, gap=(4, 4)), a.ok(2, late=True), a.ok(6),
    ], [(4, 4)])  # fmt: skip
    yield _case("refusal-changes-nothing", "whatever is refused leaves no trace: the honest event still comes", [
        a.ok(1),
        message(forged(a.event(2)), refused("bad_signature"), where=topic("unit")),
        message(payload(a.event(2)), refused("wrong_topic"), where=topic("match")),
        a.no(1, "duplicate"),
        a.ok(2),
    ])  # fmt: skip
    yield _case("stale-and-again", "an event that was held back is taken once, too", [
        a.ok(1, now="2026-11-22T11:00:00Z"), a.no(1, "duplicate", now="2026-11-22T11:00:00Z"), a.no(1, "duplicate"),
    ])  # fmt: skip
    again = signed(a.event(1))
    twin = rfc8785.dumps({**again, "sig": other_signature(again["sig"])})
    yield _case("second-signature", "(r, n-s) over the same bytes is the same event, not a second history", [
        message(twin, accepted(a.event(1)), where=topic("unit")), a.no(1, "duplicate"), a.ok(2),
        message(twin, refused("duplicate"), where=topic("unit")),
    ])  # fmt: skip


def _histories() -> Iterator[Members]:
    a = Life()
    yield _case("fork-same-number", "two events with one number, both signed", [
        a.ok(1), a.no(1, "fork", condition="tamper"), a.no(1, "quarantined"), a.no(2, "quarantined"),
    ])  # fmt: skip
    yield _case("fork-next-number", "the next event names another one before it", [
        a.ok(1), a.no(2, "fork", prev=DIGEST), a.no(2, "quarantined"), a.no(2, "quarantined", leaf="backlog"),
    ])  # fmt: skip
    yield _case("fork-that-names-none", "nor may it name none", [
        a.ok(1), a.no(2, "fork", prev=FIRST_PREV), a.no(2, "quarantined"),
    ])  # fmt: skip
    yield _case("fork-in-a-gap", "what fills a gap must be what its successor named", [
        a.ok(1), a.ok(3, gap=(2, 2)), a.no(2, "fork", condition="tamper"), a.no(2, "quarantined"),
    ], [(2, 2)])  # fmt: skip
    yield _case("fork-at-the-start-of-a-gap", "what fills a gap must follow what is known", [
        a.ok(1), a.ok(4, gap=(2, 3)), a.no(2, "fork", prev=DIGEST), a.no(3, "quarantined"),
    ], [(2, 3)])  # fmt: skip
    free = {**a.event(3), "data": {**a.event(3)["data"], "condition": "tamper", "prev": DIGEST}}
    comment = "within a long gap nothing is known: the first history that comes counts, and its neighbours must fit"
    yield _case("nobody-knows-yet", comment, [
        a.ok(1), a.ok(6, gap=(2, 5)), a.sent(free, accepted(free, late=True)), a.ok(5, late=True), a.no(2, "fork"),
        a.no(4, "quarantined"),
    ], [(2, 2), (4, 4)])  # fmt: skip
    yield _case("nobody-knows-yet-and-then", "what follows the first that came must name it", [
        a.ok(1), a.ok(6, gap=(2, 5)), a.sent(free, accepted(free, late=True)), a.no(4, "fork"), a.no(5, "quarantined"),
    ], [(2, 2), (4, 5)])  # fmt: skip
    put_back = Life(losses={3: {"first": 1, "last": 1, "count": 1, "reason": "full"}})
    yield _case("storage-put-back", "a unit that lost its memory and goes on from before", [
        a.ok(1), a.ok(2), a.ok(3), put_back.no(3, "fork"), put_back.no(4, "quarantined"),
    ])  # fmt: skip
    restarted = {**a.event(2), "id": "f" * 16 + "-2", "data": {**a.event(2)["data"], "boot": "f" * 16}}
    third = event("unit", seq=3, prev=digest(restarted), data={"boot": "f" * 16}, id="f" * 16 + "-3")
    yield _case("restart-of-the-unit", "numbers and digests go on over a restart; boot is new", [
        a.ok(1), a.sent(restarted, accepted(restarted)), a.sent(third, accepted(third)),
    ])  # fmt: skip
    first = event("unit", prev=DIGEST)
    yield _case("prev-of-the-first", "with nothing before it, prev is compared with nothing, not even for number 1", [
        a.sent(first, accepted(first)),
    ])  # fmt: skip


def _copies() -> Iterator[Members]:
    """Two devices under one key, and nobody signed one number twice."""
    a = Life()
    later: Members = {"time": "2026-11-22T09:41:20Z", "now": "2026-11-22T09:41:21Z"}
    comment = "a copy jumps ahead; the unit goes on with a lower number of another run, fresh: two count on"
    yield _case("overtaken-live", comment, [
        a.ok(1), a.other(1000, gap=(2, 999)), a.other(1001, gap=None, prev=digest(a_copy(a, 1000))),
        a.no(2, "overtaken"), a.other(1002, "quarantined"), a.no(3, "quarantined"),
    ], [(2, 999)])  # fmt: skip
    comment = "by their times alone: it was signed more than 10 s after a higher number was here"
    same: Members = {"boot": BOOT, "prev": digest(a.event(1))}
    yield _case("overtaken-by-time", comment, [
        a.ok(1), a.other(1000, gap=(2, 999)), a.other(2, "overtaken", **same, **later, leaf="backlog"),
        a.other(1001, "quarantined"),
    ], [(2, 999)])  # fmt: skip
    comment = "exactly 10 s after is a clock that was set"
    yield _case("overtaken-by-little", comment, [
        a.ok(1), a.ok(3, gap=(2, 2)),
        a.other(4, gap=None, boot=BOOT, prev=digest(a.event(3))),
        a.other(1000, gap=(5, 999), boot=BOOT),
        a.other(5, late=True, boot=BOOT, prev=digest(a_copy(a, 4, boot=BOOT, prev=digest(a.event(3)))),
                time="2026-11-22T09:41:13Z", now="2026-11-22T09:41:14Z"),
    ], [(2, 2), (6, 999)])  # fmt: skip
    comment = "a time that was made up does not help the copy for long: it counts as five minutes ahead at the most"
    much: Members = {"time": "2026-11-22T09:47:03Z", "now": "2026-11-22T09:47:04Z"}
    yield _case("overtaken-from-the-future", comment, [
        a.ok(1), a.other(1000, gap=(2, 999), time="2099-01-01T00:00:00Z"),
        a.other(2, "overtaken", **same, **much, leaf="backlog"), a.other(1001, "quarantined"),
    ], [(2, 999)])  # fmt: skip
    comment = "a number below what is known, signed now: a card that was put back counts on"
    yield _case("overtaken-below", comment, [
        a.ok(500), a.other(400, "overtaken", **later, leaf="backlog"), a.no(501, "quarantined"),
    ])  # fmt: skip
    comment = "what is left of an earlier run comes as backlog, and is welcome"
    yield _case("earlier-run-as-backlog", comment, [
        a.ok(1), a.other(5, gap=(2, 4)), a.ok(2, late=True, leaf="backlog"),
    ], [(3, 4)])  # fmt: skip
    comment = "what the chain already expects by its digest is the unit's, whenever it was signed"
    step: Members = {
        "time": "2026-11-22T09:51:03Z",
        "now": "2026-11-22T09:51:04Z",
        "boot": BOOT,
        "prev": digest(a.event(1)),
    }
    expected = digest(a_copy(a, 2, time=step["time"], boot=BOOT, prev=step["prev"]))
    yield _case("clock-set-back", comment, [
        a.ok(1), a.other(3, gap=(2, 2), boot=BOOT, prev=expected), a.other(2, late=True, **step),
    ])  # fmt: skip
    comment = "50 000 numbers are what an outbox holds: so many may be skipped at once"
    yield _case("jump-of-50000", comment, [a.ok(1), a.other(50_002, gap=(2, 50_001))], [(2, 50_001)])
    comment = "one more is more than the unit can have said"
    yield _case("jump-of-50001", comment, [a.ok(1), a.other(50_003, "jump"), a.no(2, "quarantined")])
    hour: Members = {"time": "2026-11-22T10:41:03Z", "now": "2026-11-22T10:41:04Z"}
    comment = "and one for each second that lies between: an hour later 3600 more"
    yield _case("jump-after-an-hour", comment, [
        a.ok(1), a.other(53_602, gap=(2, 53_601), **hour),
    ], [(2, 53_601)])  # fmt: skip
    yield _case("jump-after-an-hour-too-far", "but not 3601", [a.ok(1), a.other(53_603, "jump", **hour)])
    comment = "a time that was made up buys no numbers: what counts is at most the verifier's now"
    made_up: Members = {"time": "2099-01-01T00:00:00Z", "now": "2026-11-22T09:41:05Z"}
    yield _case("jump-into-the-future", comment, [a.ok(1), a.other(60_000, "jump", **made_up)])


def a_copy(life: Life, seq: int, *, boot: str = OTHER_BOOT, time: str = TIME, prev: str = DIGEST) -> Members:
    """The event that ``Life.other`` sends."""
    return event("unit", unit=life.unit, seq=seq, time=time, data={"boot": boot, "prev": prev}, id=f"{boot}-{seq}")


def _keys() -> Iterator[Members]:
    new, old, other = Life(), Life(DOOR_3_BEFORE), Life(DOOR_4, "door-4")
    before = partial(old.ok, leaf="backlog")
    yield _case("quarantine-is-of-a-key", "the unit's other key still counts, and so do other units", [
        new.ok(1), new.no(1, "fork", condition="tamper"), new.no(2, "quarantined"), before(1), other.ok(1),
    ])  # fmt: skip
    yield _case("chain-per-key", "a new key of a unit starts a chain of its own", [
        before(1), before(2), new.ok(1), new.ok(2), before(3), old.no(1, "duplicate", leaf="backlog"),
    ])  # fmt: skip
    yield _case("chain-per-unit", "units are apart", [new.ok(1), other.ok(1), other.ok(2), new.ok(2)])
    yield _case("missing-under-any-key", "what is missing of a unit under one of its keys is missing", [
        before(1), before(3, gap=(2, 2)), new.ok(1), new.ok(4, gap=(2, 3)),
    ], [(2, 2), (2, 3)])  # fmt: skip


def _losses() -> Iterator[Members]:
    def life(seq: int, first: int, last: int, count: int, more: dict[int, Members] | None = None) -> Life:
        return Life(losses={seq: {"first": first, "last": last, "count": count, "reason": "full"}, **(more or {})})

    a = life(6, 2, 5, 4)
    yield _case("loss-explains-a-gap", "the unit owns up to four of four: nothing is missing, and none may come late", [
        a.ok(1), a.ok(6, gap=(2, 5)), a.no(3, "replayed"), a.ok(7),
    ])  # fmt: skip
    a = life(8, 2, 5, 2)
    yield _case("loss-of-some", "two of four are lost, nobody knows which: all are missing until two have come", [
        a.ok(1), a.ok(8, gap=(2, 7)), a.ok(6, late=True), a.ok(7, late=True), a.ok(3, late=True), a.ok(4, late=True),
        a.no(5, "replayed"),
    ])  # fmt: skip
    yield _case("loss-still-open", "one of the two is still to come", [
        a.ok(1), a.ok(8, gap=(2, 7)), a.ok(3, late=True),
    ], [(2, 2), (4, 7)])  # fmt: skip
    yield _case("loss-explains-no-more", "numbers outside the loss stay missing", [
        a.ok(1), a.ok(3, gap=(2, 2)), a.ok(4), a.ok(8, gap=(5, 7)),
    ], [(6, 7)])  # fmt: skip
    a = life(6, 2, 5, 4)
    yield _case("loss-that-was-late", "the loss itself fills a gap", [
        a.ok(1), a.ok(7, gap=(2, 6)), a.ok(6, late=True),
    ])  # fmt: skip
    overlapping = {9: {"first": 4, "last": 7, "count": 2, "reason": "erased"}}
    a = life(8, 2, 5, 2, overlapping)
    yield _case("losses-that-overlap", "are settled together: four of the six from 2 to 7", [
        a.ok(1), a.ok(8, gap=(2, 7)), a.ok(9), a.ok(2, late=True), a.ok(7, late=True), a.no(4, "replayed"),
    ])  # fmt: skip
    yield _case("losses-that-overlap-open", "one more has to come", [
        a.ok(1), a.ok(8, gap=(2, 7)), a.ok(9), a.ok(2, late=True),
    ], [(3, 7)])  # fmt: skip
    a = life(7, 2, 4, 1, {8: {"first": 4, "last": 6, "count": 1, "reason": "full"}})
    comment = "one number in both is enough to settle them together: two of the five from 2 to 6"
    yield _case("losses-that-touch", comment, [
        a.ok(1), a.ok(7, gap=(2, 6)), a.ok(8), a.ok(2, late=True), a.ok(3, late=True), a.ok(4, late=True),
        a.no(5, "replayed"),
    ])  # fmt: skip
    a = life(7, 4, 6, 1, {8: {"first": 2, "last": 4, "count": 1, "reason": "full"}})
    yield _case("losses-that-touch-from-below", "the other way round", [
        a.ok(1), a.ok(7, gap=(2, 6)), a.ok(8), a.ok(2, late=True), a.ok(3, late=True), a.ok(4, late=True),
        a.no(5, "replayed"),
    ])  # fmt: skip
    a = life(3, 1, 2, 2)
    yield _case("loss-at-the-start", "nothing before the first event was missing: nothing changes", [a.ok(3), a.ok(4)])


def _bounds() -> Iterator[Members]:
    a = Life()
    odd = list(range(1, 132, 2))  # 66 events, 65 gaps of one number
    messages = [a.ok(1), *(a.ok(seq, gap=(seq - 1, seq - 1)) for seq in odd[1:])]
    comment = "64 digests and 64 gaps are kept; what is forgotten is no duplicate and fills no gap: it is replayed"
    yield _case("memory-is-bounded", comment, [
        *messages, a.no(1, "replayed"), a.no(2, "replayed"), a.no(3, "replayed"), a.no(5, "duplicate"),
        a.ok(4, late=True), a.no(4, "replayed"),
    ], [(seq + 1, seq + 1) for seq, _ in pairwise(odd) if seq + 1 > 4])  # fmt: skip
    losses = {20 + n: {"first": 2 * n, "last": 2 * n + 1, "count": 1, "reason": "full"} for n in range(1, 9)}
    b = Life(losses=losses)
    yield _case("losses-side-by-side", "each loss waits for its own", [
        b.ok(1), b.ok(21, gap=(2, 20)), *(b.ok(20 + n) for n in range(2, 9)), b.ok(2, late=True), b.ok(17, late=True),
        b.no(3, "replayed"), b.ok(5, late=True), b.no(4, "replayed"),
    ], [(6, 15), (18, 20)])  # fmt: skip
    many = {40 + n: {"first": 2 * n, "last": 2 * n + 1, "count": 1, "reason": "full"} for n in range(1, 18)}
    c = Life(losses=many)
    comment = "16 open losses are kept: the first of 17 is forgotten, and what it explained stays missing"
    yield _case("losses-are-bounded", comment, [
        c.ok(1), c.ok(41, gap=(2, 40)), *(c.ok(40 + n) for n in range(2, 18)), c.ok(2, late=True), c.ok(4, late=True),
    ], [(3, 3), (6, 40)])  # fmt: skip
