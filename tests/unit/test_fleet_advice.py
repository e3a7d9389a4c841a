# SPDX-License-Identifier: Apache-2.0
"""What the list of units says of what runs out, of clocks, and of a unit that has just begun."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.errors import KeyStoreError
from agent.protocol.record import save
from agent.site.delegation import delegate
from agent.site.fleet import UnitState, list_units, service_advice
from agent.site.programs import issue_broker, revoke_broker
from agent.site.seen import Mark, UnitSeen
from tests.simulators.site_office import SiteOffice


class Office(SiteOffice):
    """A site with a broker, a service and one unit that was heard."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        issue_broker(self.site, ["broker.example.org"], clock=self.clock)
        delegate(self.site, clock=self.clock)
        self.enrol("door-1")

    def after(self, days: float) -> SimulatedClock:
        return SimulatedClock(self.clock.now() + timedelta(days=days))

    def hear(self, *, camera: str = "v4l2 1280x720", uptime_s: int = 3600, **seen: object) -> None:
        at = f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        kid = self.event_key("door-1").kid
        mark = Mark(kid=kid, boot="0" * 16, uptime_s=uptime_s, time=at, seq=1, audit=1)
        facts = {"at": at, "online": True, "certificate_days": 179, "camera": camera, "mark": mark, **seen}
        save(self.files.seen / "door-1.json", UnitSeen(version=1, unit="door-1", **facts))

    def shown(self, days: float = 0) -> UnitState:
        (unit,) = list_units(self.site, clock=self.after(days))
        return unit

    def of_service(self, days: float) -> str:
        return "; ".join(service_advice(self.site, clock=self.after(days)))


@pytest.mark.parametrize("left", [b"", bytes(900), bytes(range(256)) * 4])
def test_a_mandate_that_a_power_cut_left_is_given_anew(tmp_path: Path, left: bytes) -> None:
    office = Office(tmp_path)
    assert "postern site delegate" not in office.of_service(0)
    office.files.mandate.write_bytes(left)
    assert office.of_service(0).endswith(": postern site delegate")
    office.files.record.write_bytes(left)
    with pytest.raises(KeyStoreError, match=r"restore the folder from its backup$"):
        office.of_service(0)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """One for all: each test changes another part of it."""
    return Office(tmp_path_factory.mktemp("office"))


def test_the_brokers_certificate_and_the_authority_are_told_of_before_they_end(office: Office) -> None:
    """Before, every unit was out after a year, and nothing had said so."""
    assert office.of_service(0) == ""
    assert "broker" not in office.of_service(300)
    assert "the broker's certificate ends on" in office.of_service(310)
    assert "postern site broker broker.example.org, carry site/broker there" in office.of_service(310)
    assert "the broker's certificate ended on" in office.of_service(366)
    assert "papers ended on" in office.of_service(401)
    assert "authority" not in office.of_service(3200)
    assert "the site's authority ends on" in office.of_service(3400)
    issue_broker(office.site, ["broker.example.org"], clock=office.after(310))
    assert "broker" not in office.of_service(320)
    revoke_broker(office.site, clock=office.after(320))
    assert "broker" not in office.of_service(320), "there is none that could end"


def test_a_clock_from_before_the_site_was_made_is_told_of(office: Office) -> None:
    assert "before this site was made" in office.of_service(-30)


def test_a_certificate_that_ended_while_its_unit_was_away_is_told_with_the_way_out(office: Office) -> None:
    """Before, the list went on to say what the unit had said when it was heard."""
    office.hear()
    assert office.shown(100).facts()["certificate_days"] == 79
    assert any("ends in 19 days" in advice for advice in office.shown(160).advice)
    assert any(
        "postern site renew-unit door-1 -o answer.jws, and at the unit postern unit install" in advice
        for advice in office.shown(181).advice
    )
    assert "certificate -2 days" in office.shown(181).summary()


def test_a_unit_that_joined_anew_is_not_shown_as_it_was_before(office: Office) -> None:
    office.hear()
    assert office.shown().state == "online"
    office.enrol("door-1", replace=True)
    assert (office.shown().state, office.shown().facts()["last_seen"]) == ("unheard", None)


def test_a_camera_that_is_being_opened_is_not_lost(office: Office) -> None:
    office.hear(camera="none", uptime_s=2)
    assert office.shown().known()["camera"] == "starting"
    assert not any("camera" in advice for advice in office.shown().advice)
    office.hear(camera="none", uptime_s=61)
    assert office.shown().known()["camera"] == "none"
    assert any("its camera is lost" in advice for advice in office.shown().advice)


def test_a_damaged_file_of_what_was_heard_is_no_matter_of_a_backup(office: Office) -> None:
    (office.files.seen / "door-1.json").write_text("{")
    with pytest.raises(KeyStoreError, match=r"door-1\.json is damaged: remove it"):
        office.shown()
    office.hear()
    assert office.shown().state == "online"
