# SPDX-License-Identifier: Apache-2.0
"""Whoever has the certificate of one unit, or of one card, floods the site's service: nobody else waits for it.

Every changing report of a unit was written to the disk, and every request to join, however wrong, opened the site's
folder: by what nginx lets one connection say, a card kept all units from their keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from agent.clock import SimulatedClock
from agent.protocol.health import SIGNATURE_TYPE
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply
from agent.protocol.names import JOINING_ROOT, JOINING_SUFFIX
from agent.protocol.record import decode, load
from agent.site import joining
from agent.site.quota import JOINING, MAX_SENDERS, TELL_S, UNIT, Quota, Share
from agent.site.records import SiteFiles
from agent.site.seen import UnitSeen
from agent.unit.joining import new_unit_request
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import SITE, Fleet
from tools.lib.lifetime.unit import FleetUnit

WEEK_S = 7 * 86_400
MANY = 500


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return fleet_in(tmp_path, 2)


def says(unit: FleetUnit, **changes: Any) -> bytes:
    """Health that the unit signed with whatever it likes in it."""
    members = json.loads(unit.health()) | changes
    del members["sig"]
    return rfc8785.dumps({**members, "sig": unit._key.sign_detached(rfc8785.dumps(members), typ=SIGNATURE_TYPE)})


def hear(fleet: Fleet, unit: str, health: bytes) -> int:
    return len(fleet.desk.take(f"postern/{SITE}/{unit}/health", health))


def seen(fleet: Fleet, unit: str) -> UnitSeen:
    return load(SiteFiles(fleet.folder).seen / f"{unit}.json", UnitSeen)


def test_unit_that_says_something_new_all_the_time_is_read_no_faster_than_it_may_speak(fleet: Fleet) -> None:
    loud, other = fleet.units["door-1"], fleet.units["door-2"]
    fleet.clock.advance(WEEK_S)
    for number in range(MANY):
        hear(fleet, "door-1", says(loud, uptime_s=WEEK_S + number, certificate_days=10_000 + number))
    assert seen(fleet, "door-1").certificate_days == 10_000 + UNIT.burst - 1
    assert sum("sends more than it may" in told for told in fleet.tally.told.elements()) == 1
    assert hear(fleet, "door-2", other.health()) == 1, "whoever is quiet has its keys"
    fleet.clock.advance(60)
    hear(fleet, "door-1", says(loud, uptime_s=2 * WEEK_S, certificate_days=77))
    assert seen(fleet, "door-1").certificate_days == 77, "and so has the loud one, once it is quiet"


@pytest.mark.parametrize("leaf", ["info", "availability", "health", "response/keys/renew"])
def test_nor_does_what_nobody_signed_fill_disk_or_journal(fleet: Fleet, leaf: str) -> None:
    for number in range(MANY):
        payload = b"online" if number % 2 else b"offline"
        fleet.desk.take(f"postern/{SITE}/door-1/{leaf}", payload if leaf == "availability" else b"{%d" % number)
    assert sum(fleet.tally.told.values()) <= UNIT.burst + 1


def test_card_that_asks_without_end_opens_the_folder_a_few_times(fleet: Fleet, tmp_path: Path) -> None:
    text = joining.invite(fleet.folder, "door-9", clock=fleet.clock)
    request = new_unit_request(tmp_path / "door-9", SITE, "door-9", read_invitation(text).token())
    topic = f"{JOINING_ROOT}/{SITE}/door-9{JOINING_SUFFIX}/request"
    assert sum(len(fleet.desk.take(topic, b"wrong %d" % number)) for number in range(MANY)) == JOINING.burst
    fleet.clock.advance(10)
    (letter,) = fleet.desk.take(topic, request)
    assert decode(letter.payload, JoinReply).state == "waiting", "who asks as a unit does is answered"


def test_quota_forgets_who_was_silent_for_longest_and_tells_once_an_hour() -> None:
    clock, told = SimulatedClock(), list[str]()
    quota = Quota(clock, told.append)
    share = Share(2, 0.5)
    assert [quota.admits("a", share) for _ in range(4)] == [True, True, False, False]
    clock.advance(2)
    assert [quota.admits("a", share) for _ in range(2)] == [True, False]
    assert told == ["a sends more than it may: what is too much is not read"]
    clock.advance(TELL_S)
    assert [quota.admits("a", share) for _ in range(3)] == [True, True, False]
    assert len(told) == 2
    for number in range(MAX_SENDERS - 1):
        assert quota.admits(f"made up {number}", share)
    assert not quota.admits("a", share), "it spoke last but for those"
    for number in range(MAX_SENDERS):
        quota.admits(f"another {number}", share)
    assert len(quota._buckets) <= MAX_SENDERS
