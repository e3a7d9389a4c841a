# SPDX-License-Identifier: Apache-2.0
"""The verdict of a soak: a run that shows nothing, or loses anything, is not as promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tools.lib.rig.ledger import Balance
from tools.lib.rig.soak import (
    MAX_FILES,
    MAX_SLOPE_MIB_PER_H,
    MAX_THREADS,
    MEANING,
    MORTAL,
    STEADY,
    Result,
    summary,
)

BOOKS = Balance(signed=500, verified=500, lost=0, owned_up=0, doubled=0, altered=0, late=0)
HOUR_S = 3600


def good(*, minutes: float = 60, slope: float = 0.2) -> Result:
    """As a run without a fault of ours comes out; memory rises by ``slope`` MiB an hour."""
    usage = [(float(at), 90 + slope * at / HOUR_S, 4, 14) for at in range(0, round(minutes * 60), 5)]
    units = {STEADY: BOOKS, MORTAL: BOOKS}
    return Result(minutes, 1, 8, {"kill": 9}, units, {STEADY: 0, MORTAL: 0}, {"duplicate": 20}, [], usage)


def books(name: str, **changes: int) -> Callable[[Result], None]:
    def change(result: Result) -> None:
        result.units = {**result.units, name: replace(BOOKS, **changes)}

    return change


def test_a_run_in_which_everything_was_seen_and_held_is_as_promised() -> None:
    assert good().wrong() == []
    assert good(minutes=1).ok
    assert summary(good())["ok"] is True


def test_a_run_with_nothing_to_show_is_not_as_promised() -> None:
    empty = Result(60, 1, 8)
    assert not empty.ok
    text = "\n".join(empty.wrong())
    for missing in (
        "nothing went wrong",
        "steady: there are no books",
        "mortal: there are no books",
        "never looked at",
    ):
        assert missing in text


@pytest.mark.parametrize("name", [STEADY, MORTAL])
@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ({"signed": 0, "verified": 0}, "nothing was signed"),
        ({"lost": 1}, "1 of 500 events lost"),
        ({"owned_up": 500}, "500 of 500 events owned up"),
        ({"doubled": 2}, "2 of 500 events doubled"),
        ({"altered": 3}, "3 of 500 events altered"),
    ],
)
def test_what_a_unit_lost_owned_up_doubled_or_altered_is_told(name: str, what: dict[str, int], complaint: str) -> None:
    result = good()
    books(name, **what)(result)
    assert result.wrong() == [f"{name}: {complaint}"]


def test_what_comes_late_on_the_backlog_is_no_loss_and_on_the_live_topic_it_is_a_failure() -> None:
    result = good()
    books(STEADY, late=30)(result)
    assert result.ok
    result.disordered[STEADY] = 1
    assert result.wrong() == ["steady: 1 of 500 events disordered"]
    assert {"late", "owned up", "disordered"} <= MEANING.keys()  # what is printed says what the words mean


def test_half_an_hour_without_a_slope_of_the_memory_is_no_evidence() -> None:
    result = good(minutes=30)
    assert result.ok
    result.usage = result.usage[:5]
    assert result.slope is None
    assert result.wrong() == ["steady: too few samples to say whether its memory grows"]


@pytest.mark.parametrize("minutes", [30, 60])
def test_memory_that_grows_faster_than_promised_is_told(minutes: int) -> None:
    (sentence,) = good(minutes=minutes, slope=MAX_SLOPE_MIB_PER_H + 0.1).wrong()
    assert "memory grows by 1.10 MiB an hour" in sentence


def test_threads_and_files_that_pile_up_are_told() -> None:
    result = good(minutes=1)
    result.usage.append((59.0, 90.0, MAX_THREADS + 1, MAX_FILES + 1))
    assert len(result.wrong()) == 2


def test_a_refused_message_and_a_unit_that_gave_up_are_told() -> None:
    result = good()
    result.refused["fork"] = 1
    result.ended_by_itself.append("OSError")
    assert result.wrong() == ["1 messages were refused as fork", "a unit ended by itself: OSError"]
