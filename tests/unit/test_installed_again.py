# SPDX-License-Identifier: Apache-2.0
"""What an impatient installer does with request, answer and invitation: twice, half, mixed up, and of another unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.errors import RefusedError, VerificationError
from agent.protocol.invitation import read_invitation
from agent.protocol.joining import JoinReply
from agent.protocol.record import decode
from agent.site import joining, units
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.programs import issue_broker
from agent.unit.invited import go_on
from agent.unit.joining import install, new_unit_request
from agent.unit.key_files import UnitFiles
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def renewal(office: SiteOffice) -> bytes:
    return units.renew_unit(office.site, "door-3", **office.options)


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


def test_a_request_that_nobody_answers_is_in_the_way_of_no_renewal_and_is_not_lost_by_it(office: SiteOffice) -> None:
    """It once was for ever: each answer to the keys in force was told to be of no token of this unit's."""
    files = office.enrol("door-3")
    request = office.request("door-3")
    waiting = content_of(files.waiting.folder)
    answer = renewal(office)
    for _ in range(2):
        assert install(files.folder, answer, clock=office.clock) == "door-3"
    assert content_of(files.waiting.folder) == waiting
    kid = office.event_key("door-3").kid
    replaced = units.add_unit(office.site, request, replace=True, **office.options)
    assert install(files.folder, replaced, clock=office.clock) == "door-3"
    assert office.event_key("door-3").kid != kid
    assert not files.waiting.folder.exists()


def test_an_answer_to_an_earlier_request_says_which_one_to_bring(office: SiteOffice) -> None:
    early = units.add_unit(office.site, office.request("door-3"), **office.options)
    token = units.new_token(office.site, "door-3", clock=office.clock)
    late = new_unit_request(office.keys("door-3").folder, "hq", "door-3", token)
    before = content_of(office.keys("door-3").folder)
    with pytest.raises(VerificationError, match=r"is to another request than this unit's newest: bring the answer to"):
        install(office.keys("door-3").folder, early, clock=office.clock)
    assert content_of(office.keys("door-3").folder) == before
    answer = units.add_unit(office.site, late, replace=True, **office.options)
    assert install(office.keys("door-3").folder, answer, clock=office.clock) == "door-3"


def test_a_configuration_of_another_unit_than_the_answer_is_named(office: SiteOffice) -> None:
    answer = units.add_unit(office.site, office.request("door-3"), **office.options)
    folder = office.keys("door-3").folder
    for configured in (("hq", "door-9"), ("other", "door-3")):
        with pytest.raises(VerificationError, match=r"is for door-3 of site hq, the configuration for"):
            install(folder, answer, clock=office.clock, configured=configured)
    assert install(folder, answer, clock=office.clock, configured=("hq", "door-3")) == "door-3"
    with pytest.raises(VerificationError, match="or correct the section unit"):
        install(folder, renewal(office), clock=office.clock, configured=("hq", "door-9"))


def test_a_file_of_another_step_says_where_it_belongs(office: SiteOffice) -> None:
    request = office.request("door-3")
    folder = office.keys("door-3").folder
    with pytest.raises(VerificationError, match=r"a unit's request: 'postern site add-unit' at the site answers it"):
        install(folder, request, clock=office.clock)
    answer = units.add_unit(office.site, request, **office.options)
    with pytest.raises(VerificationError, match=r"a site's answer: 'postern unit install' at the unit takes it"):
        units.add_unit(office.site, answer, **office.options)
    with pytest.raises(VerificationError, match="this is an invitation: 'postern unit join FILE' takes it"):
        install(folder, b"POSTERN1:AAAA\n", clock=office.clock)
    with pytest.raises(VerificationError, match="not readable: copy it again"):
        install(folder, answer[:200], clock=office.clock)


class Invited:
    """Two sites, and the keys of one unit that joins by whatever invitation it gets."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = SimulatedClock(START), folder
        self.keys = UnitFiles(folder / "keys")
        for site in ("hq", "other"):
            create_site(folder / site, site, clock=self.clock)
            issue_broker(folder / site, ["127.0.0.1"], clock=self.clock)
            delegate(folder / site, clock=self.clock)

    def invite(self, unit: str, site: str = "hq", **options: bool) -> str:
        return joining.invite(self.folder / site, unit, accepted=True, clock=self.clock, **options)

    def join(self, text: str) -> None:
        invitation = read_invitation(text)

        def ask(request: bytes) -> JoinReply:
            site = self.folder / invitation.site
            return decode(joining.ask_to_join(site, invitation.unit, request, clock=self.clock), JoinReply)

        go_on(invitation, self.keys.folder, policy=self.keys.folder / "policy.jws", clock=self.clock, ask=ask)


def test_a_unit_that_has_joined_becomes_no_other_one_by_the_wrong_card(tmp_path: Path) -> None:
    """Its keys were once replaced by those of the other, and its own were gone."""
    unit = Invited(tmp_path)
    unit.join(unit.invite("door-1"))
    before = content_of(unit.keys.folder)
    for text in (unit.invite("door-2"), unit.invite("door-1", "other")):
        with pytest.raises(RefusedError, match="this unit is door-1 already: bring its own") as refusal:
            unit.join(text)
        assert refusal.value.reason == "other_unit"
    assert content_of(unit.keys.folder) == before
    again = unit.invite("door-1", replace=True)
    for _ in range(2):
        unit.join(again)
    assert content_of(unit.keys.folder) != before, "its own name joins anew"
