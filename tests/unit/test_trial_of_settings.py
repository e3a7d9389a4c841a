# SPDX-License-Identifier: Apache-2.0
"""By what settings from afar are judged: by the run that has them, at the site that sent them, and patiently."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.unit.configuring import STARTS, STEADY_S, TRIAL_S, Configuring
from agent.unit.reload import Reload
from tests.simulators.configured import UNIT, Configured, zone_of


@pytest.fixture
def site(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


def test_a_trial_is_judged_by_a_run_that_has_its_settings_and_by_no_other(site: Configured) -> None:
    site.unit.begin()
    site.live(2 * TRIAL_S)
    site.send({"activation": {"dwell_ms": 900}})
    site.live(STEADY_S + 5)  # the run before is well, and has not ended yet
    assert site.state == "trying"
    site.connected = False
    site.live(2)
    site.connected = True
    assert site.state == "trying", "nor does what it lacks take anything back"
    assert zone_of(site.unit.begin())["dwell_ms"] == 900
    site.live(STEADY_S + 2)
    assert site.state == "applied"


def test_where_the_units_own_file_cannot_be_read_nothing_is_tried_and_the_site_hears_of_it(site: Configured) -> None:
    reload = Reload(site.unit, site.local, site.clock)
    site.unit.begin()
    site.file.write_text("profile: [")
    site.send({"activation": {"dwell_ms": 900}})
    assert not reload.is_due()
    assert site.state == "refused"
    assert str(site.file) in site.why
    site.write()
    assert site.send({"activation": {"dwell_ms": 950}}) == "trying", "the next ones are not kept waiting"
    site.unit.begin()
    site.file.write_text("profile: [")
    reload.asked.set()
    assert not reload.is_due()
    assert site.state == "trying", "a file that is broken later ends no trial"


def test_a_slow_camera_is_no_lost_one(site: Configured) -> None:
    site.frames = 1
    site.unit.begin()
    site.send({"camera": {"frames_per_second": 1}})
    site.unit.begin()
    for _ in range(STEADY_S):
        site.live(1)
        site.live(1, pictures=False)
    assert site.state == "applied"


def test_a_unit_that_moved_to_another_site_has_nothing_of_the_one_before(site: Configured) -> None:
    """Whose numbers may be higher than those of the site it is at now."""
    site.unit.begin()
    site.apply({"activation": {"dwell_ms": 900}})
    site.send({"activation": {"dwell_ms": 950}})
    assert zone_of(site.unit.begin())["dwell_ms"] == 950
    site.live(STEADY_S + 2)
    assert site.state == "applied"
    site.write(unit={"site": "annex", "id": UNIT, "name": "Door"})
    moved = site.start()
    assert moved.state() is None
    assert zone_of(moved.begin())["dwell_ms"] == zone_of(load_config(site.file))["dwell_ms"] == 600
    site.write(unit={"site": "hq", "id": UNIT, "name": "Door"})
    assert zone_of(site.start().begin())["dwell_ms"] == 950


def test_what_is_taken_back_between_two_runs_stands_in_the_log_of_the_next(site: Configured) -> None:
    """The log of the run before is closed by then."""
    log: list[object] = []
    site.unit.begin()
    site.send({"models": {"threads": 2}})
    site.unit.begin()
    site.unit.attach(lambda: 0, lambda: True, lambda _: None)
    site.unit.failed("the camera does not open", state="rolled_back")
    site.unit.begin()
    site.unit.attach(lambda: 0, lambda: True, lambda facts: log.append(facts["state"]))
    assert log == ["rolled_back"]
    site.send({"models": {"threads": 3}})
    for _ in range(STARTS + 1):
        site.unit = Configuring(site.local(), site.clock)
        site.unit.begin()
    site.unit.attach(lambda: 0, lambda: True, lambda facts: log.append(facts["state"]))
    assert log == ["rolled_back", "trying", "rolled_back"]
