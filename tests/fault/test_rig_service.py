# SPDX-License-Identifier: Apache-2.0
"""The rig's other targets: ``postern run`` as a process on a faulty link to a real Mosquitto, and a unit far away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.site.programs import issue_client
from agent.uplink.connection import BrokerSettings
from agent.uplink.credentials import Credentials
from tools.demonstration.site import SITE, UNIT
from tools.rigging.__main__ import SCENARIOS
from tools.rigging.outcome import Run, judge
from tools.rigging.process import UnitProcess
from tools.rigging.remote import Remote
from tools.rigging.scenario import Scenario, load_scenario
from tools.rigging.service import Premises

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]


def wrong(scenario: Scenario, run: Run | str) -> list[str]:
    assert isinstance(run, Run), run
    return [f"{check.name}: {check.found}" for check in judge(scenario, run) if not check.ok]


def test_what_holds_in_process_holds_for_the_service_and_for_a_unit_far_away(tmp_path: Path) -> None:
    scenario = load_scenario(SCENARIOS / "single-person.yaml")
    with Premises(tmp_path) as premises:
        assert wrong(scenario, premises.play(scenario)) == []
        site = premises.site
        keys = issue_client(site.site.folder, "auditor-2", "auditor")
        premises.broker.reload(site.site)
        credentials = Credentials(keys / "ca.crt", keys / "tls.crt", keys / "tls.key")
        broker = BrokerSettings("127.0.0.1", credentials, port=premises.broker.port)
        remote = Remote(broker, site=SITE, unit=UNIT, trust=site.site.folder)
        unit = UnitProcess(site.config, outbox=site.unit / "outbox.db")
        starter = threading.Timer(2.0, unit.start)  # the person who starts it
        starter.start()
        assert wrong(scenario, remote.play(scenario)) == []
        unit.stop()
    assert "break nothing" in str(remote.play(load_scenario(SCENARIOS / "killed.yaml")))
