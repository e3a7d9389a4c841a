# SPDX-License-Identifier: Apache-2.0
"""A clock that differs from the units' is told: what they say moves no automation then, and nobody would know why."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from agent.clock import SimulatedClock
from agent.protocol.health import EventHead, Health
from agent.protocol.names import round_down
from agent.subscribe.clocks import AGREE, LASTS_S, Clocks
from tests.simulators.signing_unit import START

BEHIND_S, AHEAD_S = 70, 10
EVERY_S = 60


class Here:
    """This machine, and units that report each minute by clocks of their own."""

    def __init__(self) -> None:
        self.clock = SimulatedClock(START)
        self.clocks = Clocks(self.clock, behind_s=BEHIND_S, ahead_s=AHEAD_S)

    def hears(self, unit: str, off_s: float, state: str = "synced", reports: int = 2) -> list[str]:
        """What is told of reports of a unit whose clock is so far ahead."""
        told = []
        for _ in range(reports):
            self.clock.advance(EVERY_S)
            time = round_down(self.clock.now() + timedelta(seconds=off_s), 1)
            told += self.clocks.heard(unit, msgspec.structs.replace(REPORT, time=time, clock=state))
        return told


REPORT = Health(
    type="io.postern.health.v1",
    source="/postern/hq/door-1",
    boot="0123456789abcdef",
    uptime_s=1,
    time=round_down(START, 1),
    clock="synced",
    recognition="running",
    fps_milli=0,
    queue_depth=0,
    temperature_c=None,
    disk_free_bytes=0,
    head=EventHead(0, f"sha256:{'0' * 64}"),
)


@pytest.fixture
def here() -> Here:
    return Here()


@pytest.mark.parametrize(("off_s", "words"), [(AHEAD_S + 2, "12 s ahead of"), (-BEHIND_S - 3, "73 s behind")])
def test_a_clock_that_differs_is_one_sentence_and_so_is_its_end(here: Here, off_s: float, words: str) -> None:
    (told,) = here.hears("door-1", off_s, reports=5)
    assert f"the clock of unit door-1 is {words} that of this machine" in told
    assert here.hears("door-1", 0, reports=3) == [AGREE]


@pytest.mark.parametrize("off_s", [AHEAD_S, -BEHIND_S + 1, 0])
def test_what_may_still_be_of_this_moment_is_no_difference(here: Here, off_s: float) -> None:
    assert here.hears("door-1", off_s, reports=5) == []


def test_a_wrong_clock_of_this_machine_is_one_sentence_for_all_units(here: Here) -> None:
    told = [text for number in range(9) for text in here.hears(f"door-{number}", -3600 - number)]
    assert len(told) == 1
    assert here.hears("door-other", 3600), "another cause is another sentence"


def test_a_unit_that_does_not_vouch_for_its_clock_says_nothing_about_ours(here: Here) -> None:
    assert here.hears("door-1", 3600, "unsynced", reports=5) == []


def test_reports_that_waited_at_the_broker_and_come_at_once_are_old_without_a_fault(here: Here) -> None:
    old = msgspec.structs.replace(REPORT, time=round_down(START - timedelta(minutes=2), 1))
    for _ in range(4):
        assert here.clocks.heard("door-1", old) == []
        here.clock.advance(LASTS_S / 5)
    assert here.hears("door-1", 0) == []
