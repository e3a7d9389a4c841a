# SPDX-License-Identifier: Apache-2.0
"""Checkpoints across units: in their order, in time, by one pseudonym, whatever order the events come in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import msgspec
import pytest

from agent.errors import RefusedError
from agent.protocol.event import FIRST_PREV, Event, MatchData
from agent.subscribe.sequence import MAX_FOLLOWED, Checkpoints, Passed
from agent.subscribe.verify import VerifiedEvent

TRACK = ("start", "ridge", "finish")
BEGAN = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)
ANN, BOB = "p1_" + "a" * 32, "p1_" + "b" * 32
DATA = MatchData(
    boot="0" * 16,
    seq=1,
    prev=FIRST_PREV,
    clock="synced",
    subject=ANN,
    audience="access",
    epoch="2026-W48",
    zone="track",
    method="face",
    liveness="not_checked",
    policy=FIRST_PREV,
    model=FIRST_PREV,
)


def seen(unit: str, minutes: float, subject: str = ANN, clock: str = "synced") -> VerifiedEvent:
    event = Event(
        specversion="1.0",
        type="io.postern.match.v1",
        source=f"/postern/hq/{unit}",
        id="0" * 16 + "-1",
        time=(BEGAN + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        datacontenttype="application/json",
        data=msgspec.structs.replace(DATA, subject=subject, clock=clock),
        sig="",
    )
    return VerifiedEvent(event, unit, "match", backlog=False, fresh=True, late=False, gap=None, digest="")


def told(*events: VerifiedEvent, within_s: int = 3600) -> list[Passed]:
    track = Checkpoints(TRACK, within_s)
    return [passed for one in events if (passed := track.take(one)) is not None]


def test_who_passes_all_in_order_is_told_once() -> None:
    (passed,) = told(seen("start", 0), seen("ridge", 20), seen("finish", 40), seen("finish", 41))
    assert (passed.subject, passed.units, passed.seconds) == (ANN, TRACK, 2400)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_events_may_come_in_any_order(order: tuple[int, ...]) -> None:
    events = [seen("start", 0), seen("ridge", 20), seen("finish", 40)]
    assert len(told(*(events[number] for number in order))) == 1


@pytest.mark.parametrize(
    "events",
    [
        [seen("start", 0), seen("finish", 40)],
        [seen("start", 0), seen("finish", 20), seen("ridge", 40)],
        [seen("start", 0), seen("ridge", 20), seen("finish", 61)],
        [seen("start", 0), seen("ridge", 20, BOB), seen("finish", 40)],
        [seen("start", 0), seen("ridge", 20, clock="unsynced"), seen("finish", 40)],
        [seen("start", 0), seen("elsewhere", 20), seen("finish", 40)],
    ],
    ids=["one is missing", "another order", "too slow", "two people", "no time", "another unit"],
)
def test_nobody_else_is_told(events: list[VerifiedEvent]) -> None:
    assert told(*events) == []


def test_a_second_lap_is_told_again() -> None:
    laps = [seen(unit, 100 * lap + 10 * n) for lap in range(3) for n, unit in enumerate(TRACK)]
    assert len(told(*laps)) == 3


def test_memory_is_bounded() -> None:
    track = Checkpoints(TRACK, 3600)
    for number in range(MAX_FOLLOWED + 5):
        track.take(seen("start", 0, f"p1_{number:032x}"))
    assert len(track._under_way) == MAX_FOLLOWED


@pytest.mark.parametrize(("units", "within_s"), [(("start",), 60), (("a", "a"), 60), (("A", "b"), 60), (TRACK, 0)])
def test_a_sequence_that_is_none_is_refused(units: tuple[str, ...], within_s: int) -> None:
    with pytest.raises(RefusedError):
        Checkpoints(units, within_s)
