# SPDX-License-Identifier: Apache-2.0
"""A site's units live by themselves: the service renews them through its outages, and nobody types anything.

The long run is ``tools/lifetime days``; tools/README.md has its last figures.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from agent.disk.files import write_atomic
from agent.site import units
from agent.site.authority import read_certificate, validity
from agent.site.delegation import delegate
from agent.site.programs import issue_client
from agent.site.records import SiteFiles
from agent.site.rotation import rotate_epoch_keys
from tests.simulators.fleets import fleet_in
from tools.lib.lifetime.days import Outage, outages

pytestmark = pytest.mark.timeout(240)


def test_units_announce_through_outages_of_ten_days_and_lost_messages(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 3)
    # The first begins on a Sunday evening: the week turns twice before the service is back.
    tally = fleet.live(75, (Outage(6.5, 10), Outage(30, 10), Outage(48, 4)), seed=3)
    assert tally.silent == 0
    assert tally.announced == 3 * 75 * 2
    assert tally.fewest_weeks >= 1
    assert tally.certificates == 3, "each has a new certificate, too"
    assert tally.programs == 3, "so has each program, and nobody carried it"
    assert tally.fewest_days > 100


def test_without_its_service_a_unit_falls_silent_within_three_weeks(tmp_path: Path) -> None:
    """What the other test would not notice if its units never ran out."""
    tally = fleet_in(tmp_path, 1).live(30, (Outage(1, 29),), seed=3)
    assert 0 < tally.silent < 30
    assert any("no key for audience" in told for told in tally.told)


def test_a_service_whose_own_certificate_ends_soon_uses_up_no_units_and_a_new_mandate_lets_them_live_on(
    tmp_path: Path,
) -> None:
    """All that it could issue then ends with its own; one was made every quarter of an hour until none was left."""
    fleet = fleet_in(tmp_path, 1)
    fleet.live(300, (), seed=1, step_s=5 * 86_400)  # months in which little happens
    tally = fleet.live(70, (), seed=1)
    made = SiteFiles(fleet.folder).all_units()[0].certificates
    assert len(made) <= 4, "those that have not ended yet: one each two months, and one for the last days"
    (tmp_path / "safe").rename(tmp_path / "stick")
    delegate(fleet.folder, audiences=("canteen",), clock=fleet.clock)
    (tmp_path / "stick").rename(tmp_path / "safe")
    tally = fleet.live(60, (), seed=2)
    assert tally.silent == 0
    assert not [told for told in tally.told if "have not expired" in told]
    assert validity(read_certificate(fleet.units["door-1"].files.tls_crt))[1] > fleet.clock.now() + timedelta(days=60)


def test_a_service_that_was_killed_before_it_could_send_a_certificate_sends_a_new_one(tmp_path: Path) -> None:
    """It is on record by then, and what lies there to be sent is the one before, which the unit has."""
    fleet = fleet_in(tmp_path, 1)
    fleet.live(65, (), seed=1)
    sent = SiteFiles(fleet.folder).sent_certificate("door-1")
    before = sent.read_bytes()
    fleet.clock.advance(60 * 86_400)
    units.certify_unit(fleet.folder, "door-1", below=120, clock=fleet.clock)
    write_atomic(sent, before)  # as the kill left it
    chain = units.certify_unit(fleet.folder, "door-1", below=120, clock=fleet.clock)
    assert chain != before.decode()
    assert sent.read_text() == chain
    assert units.certify_unit(fleet.folder, "door-1", below=120, clock=fleet.clock) == chain, "and that one again"


def test_a_new_generation_of_epoch_keys_reaches_every_unit_and_a_revoked_one_gets_none(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 3)
    fleet.live(1, (), seed=1)
    before = {name: unit.files.epoch_keys.read_bytes() for name, unit in fleet.units.items()}
    units.revoke_unit(fleet.folder, "door-3", clock=fleet.clock)
    (tmp_path / "safe").rename(tmp_path / "stick")
    rotate_epoch_keys(fleet.folder, clock=fleet.clock)
    fleet.live(2, (), seed=1)
    changed = {name for name, unit in fleet.units.items() if unit.files.epoch_keys.read_bytes() != before[name]}
    assert changed == {"door-1", "door-2"}
    assert {record.generation for record in SiteFiles(fleet.folder).all_units() if not record.revoked} == {1}


def test_outages_hold_the_longest_and_leave_days_between() -> None:
    found = outages(90, 10, 1)
    assert max(one.days for one in found) == 10
    assert all(later.day - one.day - one.days >= 7 for one, later in pairwise(found))


def test_a_program_has_a_year_and_no_certificate_outlives_whoever_issued_it(tmp_path: Path) -> None:
    fleet = fleet_in(tmp_path, 1)
    (tmp_path / "safe").rename(tmp_path / "stick")
    issuing = read_certificate(SiteFiles(fleet.folder).issuing_crt)
    for days, left in ((0, 365), (300, 100)):
        fleet.clock.advance(days * 86_400)
        folder = issue_client(fleet.folder, "guard", "auditor", clock=fleet.clock)
        ends = validity(read_certificate(folder / "tls.crt"))[1]
        assert (ends - fleet.clock.now()).days in (left, left - 1)
        assert ends <= validity(issuing)[1]
