# SPDX-License-Identifier: Apache-2.0
"""Sequences of messages: what a verifier must remember of a unit, and what that makes of the next event."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import rfc8785

from tools.lib.vectors.build import (
    DIGEST,
    DOOR_3,
    DOOR_3_BEFORE,
    DOOR_4,
    FIRST_PREV,
    NOW,
    SITE_KEY,
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

    def ok(self, seq: int, *, gap: Gap | None = None, late: bool = False, leaf: str = "event") -> Members:
        """The event arrives and is accepted."""
        backlog = leaf == "backlog"
        expect = accepted(self.event(seq), gap=gap, late=late, backlog=backlog, fresh=not backlog)
        return self.sent(self.event(seq), expect, leaf=leaf)

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
    cases = [*_orders(), *_histories(), *_keys(), *_losses(), *_bounds()]
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
    late = a.no(2, "expired", now="2026-11-22T11:00:00Z")
    yield _case("refusal-changes-nothing", "whatever is refused leaves no trace: the honest event still comes", [
        a.ok(1),
        message(forged(a.event(2)), refused("bad_signature"), where=topic("unit")),
        late,
        message(payload(a.event(2)), refused("wrong_topic"), where=topic("match")),
        a.no(2, "fork", prev=DIGEST),
        a.ok(2),
    ])  # fmt: skip
    yield _case("expired-before-duplicate", "the time is looked at before the chain", [
        a.ok(1), a.no(1, "expired", now="2026-11-22T11:00:00Z"), a.no(1, "duplicate"),
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
        a.ok(1), a.no(1, "fork", condition="tamper"), a.no(1, "duplicate"), a.ok(2),
    ])  # fmt: skip
    yield _case("fork-next-number", "the next event names another one before it", [
        a.ok(1), a.no(2, "fork", prev=DIGEST), a.no(2, "fork", prev=FIRST_PREV), a.ok(2),
    ])  # fmt: skip
    yield _case("fork-in-a-gap", "what fills a gap must be what its successor named", [
        a.ok(1), a.ok(3, gap=(2, 2)), a.no(2, "fork", condition="tamper"), a.ok(2, late=True),
    ])  # fmt: skip
    yield _case("fork-at-the-start-of-a-gap", "what fills a gap must follow what is known", [
        a.ok(1), a.ok(4, gap=(2, 3)), a.no(2, "fork", prev=DIGEST), a.ok(2, late=True), a.ok(3, late=True),
    ])  # fmt: skip
    free = {**a.event(3), "data": {**a.event(3)["data"], "condition": "tamper", "prev": DIGEST}}
    comment = "within a long gap nothing is known: the first history that comes counts, and its neighbours must fit"
    yield _case("nobody-knows-yet", comment, [
        a.ok(1), a.ok(6, gap=(2, 5)), a.sent(free, accepted(free, late=True)), a.no(3, "fork"), a.no(2, "fork"),
        a.no(4, "fork"), a.ok(5, late=True),
    ], [(2, 2), (4, 4)])  # fmt: skip
    put_back = Life(losses={3: {"first": 1, "last": 1, "count": 1, "reason": "full"}})
    yield _case("storage-put-back", "a unit that lost its memory and goes on from before", [
        a.ok(1), a.ok(2), a.ok(3), put_back.no(3, "fork"), put_back.no(4, "fork"),
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


def _keys() -> Iterator[Members]:
    new, old, other = Life(), Life(DOOR_3_BEFORE), Life(DOOR_4, "door-4")
    yield _case("chain-per-key", "a new key of a unit starts a chain of its own", [
        old.ok(1), old.ok(2), new.ok(1), new.ok(2), old.ok(3), old.no(1, "duplicate"),
    ])  # fmt: skip
    yield _case("chain-per-unit", "units are apart", [new.ok(1), other.ok(1), other.ok(2), new.ok(2)])
    yield _case("missing-under-any-key", "what is missing of a unit under one of its keys is missing", [
        old.ok(1), old.ok(3, gap=(2, 2)), new.ok(1), new.ok(4, gap=(2, 3)),
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
