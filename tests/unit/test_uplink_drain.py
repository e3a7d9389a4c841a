# SPDX-License-Identifier: Apache-2.0
"""The drain's promises: order, live or backlog, no hot loop, and a way out of every refusal."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given, settings
from msgspec.structs import replace

from agent.clock import full_jitter
from agent.mqtt.refusals import CONNECTION_LOST, KEEPALIVE_TIMEOUT
from agent.outbox.queue import Row
from agent.protocol.event import KINDS, Kind
from agent.uplink.drain import IN_FLIGHT, LEAF_HOLD_S, PAUSE_S, POISON_STRIKES, Drain, Parked, Send

S = 1_000_000_000
QUOTA, REFUSED, UNSPECIFIED, BAD_FORMAT = 0x97, 0x87, 0x80, 0x99


def half(n: int) -> bytes:
    return b"\x80" + bytes(n - 1)


def make(**options: int) -> Drain:
    return Drain(live_window_s=60, random=half, **options)


def row(seq: int, kind: Kind = "match", *, at_ns: int = 0, this_run: bool = True, attempts: int = 0) -> Row:
    return Row(seq, kind, b"{}", at_ns, this_run, attempts)


def seqs(sends: list[Send]) -> list[int]:
    return [send.seq for send in sends]


def test_rows_go_in_order_up_to_the_window() -> None:
    drain = make()
    assert seqs(drain.select([row(n) for n in range(1, 40)], 0)) == list(range(1, IN_FLIGHT + 1))
    assert drain.select([row(n) for n in range(1, 40)], 0) == []
    drain.accepted(1)
    assert seqs(drain.select([row(n) for n in range(2, 40)], 0)) == [IN_FLIGHT + 1]


def test_window_follows_the_broker_within_its_own_bounds() -> None:
    drain = make()
    for asked, granted in ((8, 8), (0, 1), (65_535, IN_FLIGHT)):
        drain.limit(asked)
        assert drain.room(0) == granted


def test_expiry_is_what_is_left_of_the_live_window() -> None:
    (first,) = make().select([row(1)], 0)
    (later,) = make().select([row(1)], 59 * S + 1)
    assert (first.live, first.expiry_s) == (True, 60)
    assert (later.live, later.expiry_s) == (True, 1)


def test_old_row_and_row_of_an_earlier_run_go_to_the_backlog_without_expiry() -> None:
    (old,) = make().select([row(1)], 60 * S)
    (earlier,) = make().select([row(1, this_run=False)], 0)
    for send in (old, earlier):
        assert (send.leaf, send.expiry_s) == ("backlog/match", None)


def test_overtaken_row_goes_to_the_backlog_because_it_would_look_replayed() -> None:
    drain = make()
    drain.select([row(1), row(2, "presence")], 0)
    drain.refused(1, QUOTA, 0)
    drain.accepted(2)
    (send,) = drain.select([row(1)], 1)
    assert send.leaf == "backlog/match"


def test_refused_leaf_is_held_while_others_flow_and_keeps_its_order() -> None:
    drain = make()
    drain.select([row(1), row(2), row(3, "unit")], 0)
    assert drain.refused(1, REFUSED, 0) == Parked("event/match", "not_authorised")
    assert drain.refused(2, REFUSED, 0) == Parked("event/match", "not_authorised")
    drain.accepted(3)
    assert seqs(drain.select([row(4), row(5, "unit")], 1)) == [5]
    drain.accepted(5)
    hold_s = drain.wait_s(1)
    assert LEAF_HOLD_S[0] <= hold_s <= 2 * LEAF_HOLD_S[0]
    later = round(hold_s * S) + 2
    assert seqs(drain.select([row(6), row(7)], later)) == [6]  # one row tries the leaf
    drain.accepted(6)
    assert seqs(drain.select([row(7), row(8)], later)) == [7, 8]


def test_a_leaf_that_stays_refused_is_tried_ever_more_rarely() -> None:
    drain, now, tries = make(), 0, []
    while now < 7200 * S:
        sends = drain.select([row(1), row(2)], now)
        tries.append(now)
        for send in sends:
            drain.refused(send.seq, REFUSED, now)
        now += round(drain.wait_s(now) * S) + 1
    assert len(tries) < 40
    assert max(b - a for a, b in pairwise(tries)) > 300 * S


def test_quota_pauses_everything_and_success_ends_the_pause() -> None:
    drain = make()
    drain.select([row(1), row(2)], 0)
    assert drain.refused(1, QUOTA, 0) is None
    assert drain.refused(2, QUOTA, 0) is None
    assert drain.select([row(1)], 0) == []
    wait_s = drain.wait_s(0)
    assert PAUSE_S[0] <= wait_s <= 2 * PAUSE_S[0]
    assert seqs(drain.select([row(1)], round(wait_s * S) + 1)) == [1]
    drain.accepted(1)
    assert seqs(drain.select([row(2), row(3)], round(wait_s * S) + 2)) == [2, 3]


def test_malformed_row_is_parked_alone() -> None:
    drain = make()
    drain.select([row(1), row(2)], 0)
    assert drain.refused(1, BAD_FORMAT, 0) == Parked("event/match", "payload_format_invalid", 1)
    assert drain.flying == 1


def test_row_that_the_broker_keeps_failing_on_is_parked() -> None:
    drain, now = make(), 0
    for _ in range(POISON_STRIKES - 1):
        drain.select([row(1)], now)
        assert drain.refused(1, UNSPECIFIED, now) is None
        now += round(drain.wait_s(now) * S) + 1
    drain.select([row(1)], now)
    assert drain.refused(1, UNSPECIFIED, now) == Parked("event/match", "unspecified_error", 1)


def test_row_at_which_the_broker_hangs_up_is_found_and_parked_alone() -> None:
    rows, drain, parked = [row(n) for n in range(1, 9)], make(), []
    accepted: list[int] = []
    for _ in range(20):
        waiting = [r for r in rows if r.seq not in accepted and r.seq not in parked]
        for send in drain.select(waiting, 0):
            if send.seq == 5:
                parked += [p.row for p in drain.disconnected(CONNECTION_LOST, 0)]
                break
            drain.accepted(send.seq)
            accepted.append(send.seq)
        if parked:
            break
    assert parked == [5]
    assert accepted == [1, 2, 3, 4]


def test_dead_network_is_nobodys_fault() -> None:
    drain = make()
    for _ in range(10):
        assert seqs(drain.select([row(1)], 0)) == [1]
        assert drain.disconnected(KEEPALIVE_TIMEOUT, 0) == []


def test_row_that_was_parked_before_travels_alone() -> None:
    drain = make()
    assert seqs(drain.select([row(1), row(2, attempts=1), row(3)], 0)) == [1]
    assert drain.select([row(2, attempts=1), row(3)], 0) == []
    drain.accepted(1)
    assert seqs(drain.select([row(2, attempts=1), row(3)], 0)) == [2]
    assert drain.disconnected(CONNECTION_LOST, 0) == [Parked("event/match", "connection_closed", 2)]


@given(failures=st.integers(1, 10_000), luck=st.binary(min_size=4, max_size=4))
def test_reconnect_wait_stays_in_its_bounds(failures: int, luck: bytes) -> None:
    assert 1 <= full_jitter(failures, PAUSE_S, lambda _: luck) <= 60


class Broker:
    """Answers as told, a limited number of times, then accepts everything."""

    def __init__(self, whims: list[int]) -> None:
        self.whims = whims

    def answer(self) -> int:
        return self.whims.pop() if self.whims else 0


WHIMS = st.lists(st.sampled_from([0, 0, 0, QUOTA, REFUSED, UNSPECIFIED, BAD_FORMAT, -1, -2]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=40),
    whims=WHIMS,
    pace_s=st.integers(0, 90),
    in_flight=st.integers(1, IN_FLIGHT),
)
def test_whatever_the_broker_does_every_row_arrives_and_live_order_holds(
    kinds: list[Kind], whims: list[int], pace_s: int, in_flight: int
) -> None:
    """-1: the broker hangs up; -2: the link dies. Parked rows come back after a minute, as from the outbox."""
    drain, broker, now = make(in_flight=in_flight), Broker(whims), 0
    waiting = {n: row(n, kind, at_ns=n * pace_s * S) for n, kind in enumerate(kinds, 1)}
    due: dict[int, int] = {}
    live: list[int] = []
    for _ in range(3000):
        if not waiting:
            break
        ready = [r for r in waiting.values() if r.created_ns <= now and due.get(r.seq, 0) <= now]
        sends = drain.select(ready, now)
        assert drain.flying <= in_flight
        parked: list[Parked] = []
        for send in sends:
            answer = broker.answer()
            if answer < 0:
                parked += drain.disconnected(CONNECTION_LOST if answer == -1 else KEEPALIVE_TIMEOUT, now)
                break
            if answer == 0:
                drain.accepted(send.seq)
                del waiting[send.seq]
                if send.live:
                    live.append(send.seq)
                continue
            found = drain.refused(send.seq, answer, now)
            parked += [found] if found else []
        for parcel in parked:
            if parcel.row is not None:
                due[parcel.row] = now + 60 * S
                waiting[parcel.row] = replace(waiting[parcel.row], attempts=1)
        now += round(min(drain.wait_s(now), 60) * S) + 1 if not sends else S
    assert not waiting
    assert live == sorted(live)
