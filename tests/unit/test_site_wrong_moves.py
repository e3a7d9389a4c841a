# SPDX-License-Identifier: Apache-2.0
"""What an owner of a site does wrong with its folder, its names and its stick: refused before anything is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.errors import RefusedError
from agent.site import delegation, joining, policies, programs, units
from agent.site.creation import create_site
from agent.site.token_list import issue_token_list
from tests.simulators.signing_unit import START
from tests.simulators.site_office import SiteOffice
from tests.unit.test_match_policy import policy
from tests.unit.test_site_acts import contents


@pytest.fixture
def office(tmp_path: Path) -> SiteOffice:
    return SiteOffice(tmp_path)


def test_a_stick_with_another_sites_keys_keeps_them(office: SiteOffice, tmp_path: Path) -> None:
    """Before, the keys of the first site's root were gone for ever."""
    stick, other = tmp_path / "stick", SiteOffice(tmp_path / "other")
    for one in (office, other):
        delegation.delegate(one.site, **one.options)
    delegation.take_root_away(office.site, stick, clock=office.clock)
    held = contents(stick)
    before = contents(other.site)
    with pytest.raises(RefusedError, match="perhaps of another site"):
        delegation.take_root_away(other.site, stick, clock=office.clock)
    assert (contents(stick), contents(other.site)) == (held, before)


def test_keys_are_not_said_to_be_where_they_are_not(office: SiteOffice, tmp_path: Path) -> None:
    delegation.delegate(office.site, **office.options)
    delegation.take_root_away(office.site, tmp_path / "stick", clock=office.clock)
    office.files.away.unlink()  # as a copy to a stick that knows no links leaves it
    with pytest.raises(RefusedError, match=r"ca.key is neither in .* nor in .*another"):
        delegation.take_root_away(office.site, tmp_path / "another", clock=office.clock)
    delegation.take_root_away(office.site, tmp_path / "stick", clock=office.clock)
    policies.issue_policy(office.site, policy(), **office.options)


@pytest.mark.parametrize("where", ["", "units", "clients/stick"])
def test_keys_are_not_taken_away_into_the_sites_own_folder(office: SiteOffice, where: str) -> None:
    delegation.delegate(office.site, **office.options)
    with pytest.raises(RefusedError, match="in the site's own folder"):
        delegation.take_root_away(office.site, office.site / where, clock=office.clock)


@pytest.mark.parametrize("where", ["units", "broker/new", "clients"])
def test_a_site_in_a_sites_folder_is_refused_before_it_damages_that(office: SiteOffice, where: str) -> None:
    before = contents(office.site)
    with pytest.raises(RefusedError, match="the folder of a site: choose one outside"):
        create_site(office.site / where, "other", clock=office.clock)
    assert contents(office.site) == before


def test_a_name_that_is_too_long_for_a_certificate_is_refused(office: SiteOffice, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="take 40 letters at most"):
        create_site(tmp_path / "long", "a" * 41, clock=office.clock)
    assert not (tmp_path / "long").exists()
    create_site(tmp_path / "long", "a" * 40, clock=office.clock)
    programs.issue_broker(office.site, ["localhost"], **office.options)
    delegation.delegate(office.site, **office.options)
    joining.invite(office.site, "b" * 59, clock=office.clock)
    with pytest.raises(RefusedError, match="65 of 64 characters: choose a shorter name"):
        joining.invite(office.site, "b" * 60, clock=office.clock)


@pytest.mark.parametrize("invited", [True, False])
def test_a_name_is_a_units_or_a_programs_from_the_first_word_on(office: SiteOffice, invited: bool) -> None:
    """Before, a unit that was invited waited for ever, once a program had its name."""
    programs.issue_broker(office.site, ["localhost"], **office.options)
    delegation.delegate(office.site, **office.options)
    programs.issue_client(office.site, "guard", "auditor", **office.options)
    with pytest.raises(RefusedError, match="a program has this name"):
        units.new_token(office.site, "guard", clock=office.clock)
    _ = (joining.invite if invited else units.new_token)(office.site, "door-5", clock=office.clock)
    with pytest.raises(RefusedError, match="a unit of this name was invited"):
        programs.issue_client(office.site, "door-5", "auditor", **office.options)
    programs.issue_client(office.site, "guard", "operator", **office.options)


def test_who_issues_tokens_no_more_is_a_unit_of_the_site(office: SiteOffice) -> None:
    office.enrol("door-3")
    issue_token_list(office.site, issuers=["door-3"], **office.options)
    for _ in range(2):
        issue_token_list(office.site, not_issuers=["door-3"], **office.options)
    with pytest.raises(RefusedError, match="no unit of that name"):
        issue_token_list(office.site, not_issuers=["door-33"], **office.options)


def test_the_last_number_of_an_old_key_is_refused_where_there_is_none(office: SiteOffice) -> None:
    with pytest.raises(RefusedError, match="leave --last-seq out"):
        office.enrol("door-3", last_seq=5)


def test_of_people_who_make_a_site_at_once_one_makes_it(tmp_path: Path) -> None:
    def create(_: int) -> str:
        try:
            create_site(tmp_path / "site", "hq", clock=SimulatedClock(START))
        except RefusedError as error:
            return str(error).partition(": ")[0]
        return "made"

    with ThreadPoolExecutor(8) as people:
        told = sorted(people.map(create, range(8)))
    assert told == [f"{tmp_path / 'site'} is site hq already, and whole"] * 7 + ["made"]
    programs.issue_broker(tmp_path / "site", ["localhost"], clock=SimulatedClock(START))
