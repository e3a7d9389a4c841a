# SPDX-License-Identifier: Apache-2.0
"""The site's service numbers what it sends by the time: neither one unit's word nor a clock that was ahead stops it."""

from __future__ import annotations

import os
import random
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from agent.keys import UnitKey, decode_base64url
from agent.mqtt.credentials import load_identity, offer_certificate
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.command import RENEW, Command
from agent.protocol.grant import SEPARATOR
from agent.protocol.response import command_digest
from agent.protocol.topics import certificate_topic
from agent.site.authority import read_certificate, validity
from agent.site.delegation import delegate, renew_own_certificate, service_credentials
from agent.site.desk import Desk, Letter
from agent.site.operator import MAX_SENT
from agent.site.records import SiteFiles
from agent.uplink.answers import Answers
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import PROGRAMS, SITE, Fleet
from tools.lib.lifetime.unit import FleetUnit

pytestmark = pytest.mark.timeout(240)

DAY = 86_400.0
AHEAD = 150 * DAY  # its own mandate has not ended by then, nor have the certificates that it makes


def says(unit: FleetUnit, payload: bytes, number: int) -> bytes:
    """A refusal by which a command would be taken with ``number``, signed by the unit's own key."""
    answers = Answers(SITE, unit.name, UnitKey.load(unit.files.event_key))
    failure = ("out_of_order", "commands with higher numbers were taken before")
    return answers.answer(RENEW, command_digest(payload), transaction_of(payload), None, failure, next_seq=number)


def transaction_of(payload: bytes) -> str:
    """Of a signed command: a mandate, then header, body and signature."""
    body = payload.decode().rpartition(SEPARATOR)[2].split(".")[1]
    return msgspec.json.decode(decode_base64url(body), type=Command).transaction


def heard(fleet: Fleet, unit: FleetUnit) -> list[Letter]:
    return fleet.desk.take(f"postern/{SITE}/{unit.name}/health", unit.health())


def answered(fleet: Fleet, unit: FleetUnit, answer: bytes) -> list[Letter]:
    return fleet.desk.take(f"postern/{SITE}/{unit.name}/response/{RENEW}", answer)


def until_something_is_due(fleet: Fleet, unit: FleetUnit) -> list[Letter]:
    for _ in range(30):
        fleet.clock.advance(DAY)
        if letters := heard(fleet, unit):
            return letters
    raise AssertionError("nothing fell due in a month")


def test_a_unit_that_names_a_number_keeps_no_other_from_its_keys(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 2)
    (letter,) = until_something_is_due(fleet, fleet.units["door-2"])
    assert answered(fleet, fleet.units["door-2"], says(fleet.units["door-2"], letter.payload, MAX_SAFE_INTEGER - 9))
    del fleet.units["door-2"]  # it was taken over, and says no more
    tally = fleet.live(40, (), seed=4)
    assert tally.silent == 0
    assert not [told for told in tally.told if "number_ahead" in told]


def test_a_unit_that_always_names_another_number_is_answered_three_times(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 1)
    unit = fleet.units["door-1"]
    letters, sent = until_something_is_due(fleet, unit), 0
    while letters and sent < 20:
        sent += 1
        letters = answered(fleet, unit, says(unit, letters[0].payload, 1 << (45 + sent)))
    assert sent == MAX_SENT
    assert fleet.live(40, (), seed=4).silent == 0


class Ahead:
    """The service's machine has another clock than its units for one message."""

    def __init__(self, fleet: Fleet, jump: float) -> None:
        self.fleet, self.jump = fleet, jump

    def hears(self, unit: FleetUnit, topic: str, payload: bytes) -> list[Letter]:
        self.fleet.clock.step_wall(self.jump, "synced")
        letters = self.fleet.desk.take(f"postern/{SITE}/{unit.name}/{topic}", payload)
        self.fleet.clock.step_wall(-self.jump, "synced")
        return letters


def test_a_service_whose_clock_was_ahead_for_an_hour_renews_units_as_before(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 1)
    unit, ahead, sent = fleet.units["door-1"], Ahead(fleet, AHEAD), 0
    for _ in range(4):
        fleet.clock.advance(900)
        for letter in ahead.hears(unit, "health", unit.health()):
            sent += 1
            if (answer := unit.handle(RENEW, letter.payload)) is not None:
                ahead.hears(unit, f"response/{RENEW}", answer)
    assert sent, "it did something by that clock"
    newest = SiteFiles(fleet.folder).all_units()[0].certificates[-1]
    assert newest.expires_at > (fleet.clock.now() + timedelta(days=200)).isoformat(), "such as a certificate"
    fleet.tally.told.clear()
    tally = fleet.live(75, (), seed=4)  # it is renewed at 60
    assert tally.silent == 0
    assert tally.fewest_days > 100
    assert not [told for told in tally.told if "number_ahead" in told or "not_valid" in told]


def test_one_hour_of_a_false_time_at_service_and_units_silences_no_unit(tmp_path: Path) -> None:
    """They have one time server, so the units take what the service makes by that time: it has to count before, too."""
    fleet = fleet_in(tmp_path, 1)
    fleet.live(10, (), seed=4)
    serials = {name: unit.serial() for name, unit in fleet.units.items()}
    fleet.clock.step_wall(AHEAD, "synced")
    for _ in range(4):
        fleet.desk.daily()
        for unit in fleet.units.values():
            fleet._exchange(unit, random.Random(1))
        fleet.clock.advance(900)
    fleet.clock.step_wall(-AHEAD, "synced")
    assert {name: unit.serial() for name, unit in fleet.units.items()} != serials, "some took what was made then"
    fleet.tally.told.clear()
    tally = fleet.live(20, (), seed=5)
    assert tally.silent == 0, tally.told


@pytest.mark.parametrize("jump", [130 * DAY, 170 * DAY])
def test_its_own_certificate_counts_again_once_the_clock_is_right(tmp_path: Path, jump: float) -> None:
    """It would not be let into the broker until then, and no unit would be renewed."""
    fleet = fleet_in(tmp_path, 1)
    own = service_credentials(SiteFiles(fleet.folder))
    fleet.clock.step_wall(jump, "synced")
    renew_own_certificate(fleet.folder, clock=fleet.clock)
    fleet.clock.step_wall(-jump, "synced")
    assert validity(read_certificate(own.certificate))[0] > fleet.clock.now()
    made = []
    for _ in range(3):
        renew_own_certificate(fleet.folder, clock=fleet.clock)
        load_identity(own, fleet.clock, common_name="site-service")
        made.append(own.certificate.read_bytes())
    assert len(set(made)) == 1, "once"


def test_a_programs_certificate_by_a_clock_that_was_ahead_is_made_anew(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 1)
    fleet.clock.advance(100 * DAY)
    (tmp_path / "safe").rename(tmp_path / "stick")
    delegate(fleet.folder, audiences=("canteen",), clock=fleet.clock)
    jump = 380 * DAY  # after the programs' own have ended
    fleet.clock.step_wall(jump, "synced")
    fleet.desk = Desk(fleet.folder, clock=fleet.clock, random=os.urandom, tell=lambda _: None)
    fleet.desk.daily()
    fleet.clock.step_wall(-jump, "synced")
    name = next(iter(PROGRAMS))
    sent = SiteFiles(fleet.folder).sent_certificate(name)
    assert validity(read_certificate(sent))[0] > fleet.clock.now() + timedelta(days=300)
    fleet.clock.advance(2 * DAY)
    fleet.desk.daily()
    (content,) = (one.payload for one in fleet.desk.board() if one.topic == certificate_topic(SITE, name))
    assert offer_certificate(fleet.programs[name], content, fleet.clock)
    assert len({one.serial for one in SiteFiles(fleet.folder).all_clients()[0].certificates}) <= 3
