# SPDX-License-Identifier: Apache-2.0
"""By what settings from afar are judged: by the run that has them, at the site that sent them, and patiently."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.errors import RefusedError
from agent.unit.configuring import PICTURE_S, STARTS, STEADY_S, TRIAL_S, Configuring
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


def test_each_step_of_a_trial_stands_in_both_logs_whole(site: Configured, caplog: pytest.LogCaptureFixture) -> None:
    facts: list[dict[str, object]] = []

    def begin() -> None:
        site.unit.begin()
        site.unit.attach(lambda: site.frames, lambda: site.connected, lambda one: facts.append(dict(one)))

    begin()
    with caplog.at_level(logging.INFO):
        assert site.send({"activation": {"dwell_ms": 900}}) == "trying"
        begin()
        site.live(STEADY_S + 2)
        assert site.unit.take(site.signed()) == {"configuration": "applied", "serial": 1}, "once more, kept already"
        answer = site.unit.take(site.signed()) if site.apply({"activation": {"dwell_ms": 950}}) else {}
        assert answer == {"configuration": "trying", "serial": 2, "seconds": TRIAL_S}
        with pytest.raises(RefusedError) as busy:
            site.unit.take(site.signed())
        begin()
        site.connected = False
        site.live(TRIAL_S)
        assert site.unit.asked.is_set()
    said = f"configuration 2 is on trial here, for {TRIAL_S} seconds at most: send this then"
    assert (busy.value.reason, str(busy.value)) == ("busy", said)
    why = f"there was no session with the broker {TRIAL_S} seconds after the change"
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "configuration 1 of the site is on trial"),
        ("INFO", "configuration 1 of the site is kept"),
        ("INFO", "configuration 2 of the site is on trial"),
        ("WARNING", f"the settings that the site sent (serial 2) were taken back: {why}"),
    ]
    assert facts == [
        {"what": "site", "serial": serial, "state": state}
        for serial, state in ((1, "trying"), (1, "applied"), (2, "trying"), (2, "rolled_back"))
    ]
    told = site.unit.state()
    assert told is not None
    assert (told.serial, told.state, told.why) == (2, "rolled_back", why)


def test_a_trial_ends_to_the_second(site: Configured) -> None:
    site.frames = 1
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(1)  # the first picture, and from now on it is well
    for _ in range(STEADY_S // PICTURE_S - 1):
        site.live(PICTURE_S - 1, pictures=False)  # a picture each five seconds is no camera that is lost
        site.live(1)
    site.live(PICTURE_S - 1, pictures=False)
    assert site.state == "trying"
    site.live(1)
    assert site.state == "applied"
    site.send({"activation": {"dwell_ms": 950}})
    site.unit.begin()
    site.live(1)
    site.live(TRIAL_S - 2, pictures=False)
    assert site.state == "trying"
    site.live(1, pictures=False)
    assert site.state == "rolled_back"
    assert site.why == f"there was no picture of the camera {TRIAL_S} seconds after the change"


def test_a_picture_is_recent_for_five_seconds_and_not_a_moment_longer(site: Configured) -> None:
    site.frames = 1
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    site.unit.begin()
    site.live(1)
    for more_s, well in ((PICTURE_S, True), (2e-9, False)):
        site.clock.advance(more_s)
        site.unit.look()
        assert (site.unit._well_ns is not None) == well
