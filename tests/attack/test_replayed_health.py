# SPDX-License-Identifier: Apache-2.0
"""A broker repeats what a unit once said of itself: the site's service makes no keys for it and believes none of it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from agent.clock import ClockState
from agent.protocol.command import RENEW
from agent.protocol.record import load
from agent.site.records import SiteFiles, UnitRecord
from agent.site.seen import Mark, UnitSeen, is_replayed
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import SITE
from tools.lib.lifetime.unit import FleetUnit

UNIT = "door-1"
BASE = f"postern/{SITE}/{UNIT}"
WEEK_S = 7 * 86_400


class Site:
    """A site with one unit, and whoever runs its broker."""

    def __init__(self, folder: Path) -> None:
        self.fleet = fleet_in(folder, 1)
        self.files = SiteFiles(self.fleet.folder)

    @property
    def unit(self) -> FleetUnit:
        return self.fleet.units[UNIT]

    def hear(self, health: bytes) -> int:
        """Hand the service a health document and the unit what comes of it; how many commands that were."""
        letters, count = self.fleet.desk.take(f"{BASE}/health", health), 0
        while letters:
            letter = letters.pop()
            count += 1
            answer = self.unit.handle(RENEW, letter.payload)
            letters += self.fleet.desk.take(f"{BASE}/response/{RENEW}", answer or b"")
        return count

    def pass_time(self, seconds: float) -> None:
        self.fleet.clock.advance(seconds)

    def restart_unit(self) -> None:
        self.unit.close()
        self.fleet.units[UNIT] = FleetUnit(self.unit.files.folder, SITE, UNIT, self.fleet.clock)

    def issued(self) -> int:
        return load(self.files.unit(UNIT), UnitRecord).issued

    def seen(self) -> UnitSeen:
        return load(self.files.seen / f"{UNIT}.json", UnitSeen)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("restarted", [False, True])
def test_repeated_health_issues_no_epoch_keys(site: Site, *, restarted: bool) -> None:
    site.pass_time(WEEK_S)
    recorded = site.unit.health()
    assert site.hear(recorded) == 1, "a new week: keys fall due"
    if restarted:
        site.restart_unit()
    site.pass_time(60)
    assert site.hear(site.unit.health()) == 0
    before, seen = site.issued(), site.seen()
    for _ in range(2):
        for _ in range(50):
            site.pass_time(1_000)
            assert site.hear(recorded) == 0
        site.fleet.desk = site.fleet._start_desk()  # what it knows of the unit outlives it
    assert site.issued() == before
    assert site.seen() == seen, "and nothing of it is believed"
    assert sum("older than what was heard" in told for told in site.fleet.tally.told) == 1
    site.pass_time(WEEK_S)
    assert site.hear(site.unit.health()) == 1, "the unit itself is heard as ever"


def test_repeated_health_brings_no_silent_unit_back(site: Site) -> None:
    site.hear(site.unit.health())
    last = site.seen().at
    recorded = site.unit.health()
    site.pass_time(3_600)
    site.hear(recorded)
    assert site.seen().at == last


def mark(boot: str, uptime_s: int, time: str, seq: int, audit: int, kid: str = "k") -> Mark:
    return Mark(kid=kid, boot=boot * 16, uptime_s=uptime_s, time=f"2026-01-05T{time}:00Z", seq=seq, audit=audit)


@pytest.mark.parametrize("state", ["synced", "unsynced"])
def test_what_tells_newer_from_older(state: ClockState) -> None:
    now = datetime(2026, 1, 5, 9, 0, tzinfo=UTC) if state == "synced" else None
    newest = mark("a", 60, "08:00", 10, 20)
    for other, replayed in (
        (mark("a", 61, "07:00", 10, 20), False),  # a clock that was put right
        (mark("a", 60, "08:00", 10, 20), True),
        (mark("a", 59, "09:00", 99, 99), True),
        (mark("b", 1, "07:00", 11, 20), False),
        (mark("b", 1, "07:00", 10, 21), False),
        (mark("b", 1, "07:00", 11, 19), True),
        (mark("b", 1, "07:00", 10, 20), True),
        (mark("b", 1, "08:30", 1, 2), True),  # files put back, and a time that is not now
        (mark("b", 1, "09:00", 1, 2), state == "unsynced"),  # a unit whose files were put back is heard again
        (mark("b", 1, "08:00", 1, 2, kid="another"), False),
    ):
        assert is_replayed(other, newest, now) == replayed, other
    assert not is_replayed(newest, None, now)


def test_a_mark_of_any_size_is_one_or_none() -> None:
    absurd = msgspec.structs.replace(mark("a", 1, "08:00", 1, 1), time="2026-13-45T99:00:00Z")
    assert is_replayed(absurd, mark("b", 1, "08:00", 1, 1), None)
