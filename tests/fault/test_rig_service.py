# SPDX-License-Identifier: Apache-2.0
"""The rig's other targets: ``postern run`` as a process on a faulty link to a real Mosquitto, and a unit far away."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.clock import SystemClock
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.site.programs import issue_client
from tests.simulators.typed import typed
from tools.lib.demo.site import SITE, UNIT, DemoSite
from tools.lib.rig.__main__ import SCENARIOS
from tools.lib.rig.disk import SlowDisk
from tools.lib.rig.faults import Kill
from tools.lib.rig.inprocess import play_here
from tools.lib.rig.judge import judge
from tools.lib.rig.outcome import Run
from tools.lib.rig.process import UnitProcess
from tools.lib.rig.remote import Remote
from tools.lib.rig.scenario import Scenario, load_scenario
from tools.lib.rig.service import Premises

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

SINGLE = load_scenario(SCENARIOS / "single-person.yaml")
SLOW = load_scenario(SCENARIOS / "disk-slow.yaml")
OFFICE = load_scenario(SCENARIOS / "office-door-unchecked.yaml")
STRIKE, MINUTE_S = 27, 60.0
MAX_ON_S = 1.5  # after a kill; milliseconds on a machine that is not starved
OTHER = "door-2"


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    with Premises(tmp_path_factory.mktemp("premises"), typed=typed) as premises:
        yield premises


@pytest.fixture(scope="module")
def broker(premises: Premises) -> BrokerSettings:
    """As an auditor sees it."""
    keys = issue_client(premises.site.site.folder, "auditor-2", "auditor")
    premises.broker.reload(premises.site.site)
    credentials = Credentials.in_folder(keys)
    return BrokerSettings("127.0.0.1", credentials, port=premises.broker.port)


@pytest.fixture(scope="module")
def played(premises: Premises) -> Run:
    """A single person's scenario."""
    run = premises.play(SINGLE)
    assert isinstance(run, Run), run
    return run


@pytest.fixture
def unit(premises: Premises, played: Run) -> Iterator[UnitProcess]:
    """With that scene, and the person enrolled."""
    unit = UnitProcess(premises.site.config, outbox=premises.site.unit / "outbox.db")
    yield unit
    unit.stop()


@pytest.fixture
def other(premises: Premises, unit: UnitProcess) -> Iterator[UnitProcess]:
    """Another unit of the site, which sees nobody."""
    site = DemoSite(premises.site.folder, OTHER, typed)
    scene = premises.site.folder / "nobody.yaml"
    scene.write_text("duration: 30\n")
    site.add_unit(port=premises.broker.port, protocol=premises.broker.protocol, scene=scene)
    premises.broker.reload(site.site)
    other = UnitProcess(site.config, outbox=site.unit / "outbox.db")
    yield other
    other.kill()


def remote(premises: Premises, broker: BrokerSettings, name: str = UNIT, *, wait_s: float = 60) -> Remote:
    return Remote(broker, site=SITE, unit=name, trust=premises.site.site.folder, start_timeout_s=wait_s)


def wrong(scenario: Scenario, run: Run | str) -> list[str]:
    assert isinstance(run, Run), run
    return [f"{check.name}: {check.found}" for check in judge(scenario, run) if check.ok is False]


def test_what_holds_in_process_holds_for_the_service_and_every_cost_is_measured(played: Run) -> None:
    assert wrong(SINGLE, played) == []
    assert None not in asdict(played.measured).values()


def test_events_that_are_swapped_late_or_early_fail_in_process_and_at_the_service(played: Run, tmp_path: Path) -> None:
    started, match, stopping = SINGLE.expect
    here = play_here(SINGLE, tmp_path)
    assert isinstance(here, Run)
    for run in (here, played):
        exact = dataclasses.replace(run, slack_s=0)
        assert wrong(SINGLE, exact) == []
        swapped = wrong(replace(SINGLE, expect=(match, started, stopping)), run)
        assert any(one.startswith("in the order of the file") for one in swapped)
        for late in (replace(match, between=(0.0, 0.1)), replace(match, within_ms=1)):
            assert wrong(replace(SINGLE, expect=(started, late, stopping)), exact)
        assert wrong(replace(SINGLE, expect=(started, replace(match, within_ms=1), stopping)), run)
        assert wrong(replace(SINGLE, expect=(started, replace(match, between=(4.9, 5.0)), stopping)), run)


def test_a_unit_far_away_is_judged_by_its_own_events_alone(
    premises: Premises, broker: BrokerSettings, unit: UnitProcess, other: UnitProcess
) -> None:
    def talk_nonsense() -> None:
        keys = DemoSite(premises.site.folder, OTHER).unit / "keys"
        credentials = Credentials.in_folder(keys)
        settings = BrokerSettings("127.0.0.1", credentials, port=premises.broker.port)
        connection = Connection(settings, client_id="nonsense", clock=SystemClock())
        connection.open()
        connection.publish(f"postern/{SITE}/{OTHER}/event/unit", b"nonsense")
        connection.poll(1.0)
        connection.close()

    acts = [(1.0, other.start), (6.0, unit.start), (10.0, talk_nonsense)]  # the people who start them, and a fault
    for at_s, act in acts:
        threading.Timer(at_s, act).start()
    run = remote(premises, broker).play(SINGLE)
    assert wrong(SINGLE, run) == []
    assert isinstance(run, Run)
    assert {one.event.unit for one in run.arrivals} == {UNIT}


def test_a_unit_far_away_that_says_nothing_now_is_not_judged_by_what_it_said_before(
    premises: Premises, broker: BrokerSettings, unit: UnitProcess
) -> None:
    silent = ["the unit starts: door-1 said nothing of a start within 0.5 s; units heard: none"]
    assert wrong(SINGLE, remote(premises, broker, wait_s=0.5).play(SINGLE)) == silent
    unit.start()
    assert unit.wait(60) == 0
    assert wrong(SINGLE, remote(premises, broker, wait_s=0.5).play(SINGLE)) == silent


def test_a_misspelled_unit_is_a_failure_that_names_the_units_that_were_heard(
    premises: Premises, broker: BrokerSettings, unit: UnitProcess
) -> None:
    starter = threading.Timer(0.5, unit.start)
    starter.start()
    (found,) = wrong(SINGLE, remote(premises, broker, "door-l", wait_s=6).play(SINGLE))
    assert "units heard: door-1" in found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"faults": SLOW.faults}, "break nothing"),
        ({"configuration": {"events.presence": True}}, "needs events.presence set"),
        ({"start": SINGLE.start.replace(year=2027)}, "needs the clock set"),
        ({"enrolled": load_scenario(SCENARIOS / "consent-expires-at-midnight.yaml").enrolled}, "needs a consent"),
    ],
)
def test_what_a_rig_cannot_bring_about_far_away_is_not_played(
    premises: Premises, broker: BrokerSettings, changes: dict[str, object], reason: str
) -> None:
    assert reason in str(remote(premises, broker).play(replace(SINGLE, **changes)))


@pytest.mark.skipif(not SlowDisk.available(), reason="needs a C compiler")
def test_a_unit_that_is_killed_in_a_pulse_leaves_the_line_and_its_lights_off(premises: Premises) -> None:
    """The whole process tree on a board that leaves on what nobody switches off; the pulse would last for a minute."""
    outputs = [{**OFFICE.configuration["outputs"][0], "pulse_ms": round(MINUTE_S * 1000)}]
    killed = replace(
        OFFICE,
        configuration={**OFFICE.configuration, "outputs": outputs},
        faults=(Kill(at=4),),
        pulses=(),  # not None: the lines are a board's
        expect=(),
    )
    run = premises.play(killed)
    assert isinstance(run, Run), run
    assert run.pulses is not None
    (strike,) = [one for one in run.pulses if one.line == STRIKE]
    assert strike.on_s < 4, "the match came too late: the machine is too busy"
    assert all(one.off_s is not None for one in run.pulses)
    assert strike.off_s is not None
    print(f"off {strike.off_s - 4:.3f} s after the kill")
    assert strike.off_s - 4 < MAX_ON_S


def test_a_slow_disk_delays_events_and_the_scenario_notices_when_it_is_not_slow(premises: Premises) -> None:
    assert wrong(SLOW, premises.play(SLOW)) == []
    mutant = replace(SLOW, faults=())
    assert wrong(mutant, premises.play(mutant))
