# SPDX-License-Identifier: Apache-2.0
"""SIGHUP while a command is on its way or being done: it is done and answered, by the run before or by the next one.

Between the two nobody listens for half a second: what is asked then waits at the broker.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.keys import SigningKey, load_public_key
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from agent.protocol.response import Response
from agent.protocol.trust import TrustedUnits
from agent.site.operator import Operator
from agent.site.programs import issue_client
from tests.simulators.broker import wait_until
from tests.simulators.typed import typed
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import SITE, UNIT, DemoSite
from tools.lib.rig.asking import OPERATOR

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]

TIMES = 5
ANSWER_S = 30.0  # on a busy machine
WITHIN_S = 0.3  # of a command that takes some hundredths of a second; a reload takes half a second


def ask(site: DemoSite, port: int, verb: str) -> Response:
    """Ask once, as an operator's command does; fails where no answer comes."""
    files = site.site
    broker = BrokerSettings("127.0.0.1", Credentials.in_folder(files.client(OPERATOR)), port=port)
    trusted = TrustedUnits.from_signed(files.trust.read_bytes(), load_public_key(files.site_jwk))
    key = SigningKey.load(files.site_key)
    operator = Operator(broker, site=SITE, key=key, trusted=trusted, clock=SystemClock())
    return operator.ask(UNIT, verb, {}, timeout_s=ANSWER_S, on_progress=lambda _: None)


def test_a_reload_at_any_moment_of_a_command_keeps_it_from_nobody(tmp_path: Path) -> None:
    site, dice = DemoSite(tmp_path / "site", typed=typed), random.Random(7)
    site.folder.mkdir()
    site.create()
    issue_client(site.site.folder, OPERATOR, "operator")
    with DemoBroker(site.site, tmp_path / "broker") as broker:
        scene = tmp_path / "scene.yaml"
        scene.write_text("duration: 600\nsize: [320, 240]\nframes_per_second: 5\n")
        site.add_unit(port=broker.port, protocol=broker.protocol, scene=scene)
        broker.reload(site.site)
        log = tmp_path / "log"
        command = [sys.executable, "-m", "agent", "run", "-c", str(site.config)]
        with log.open("w") as told, subprocess.Popen(command, stderr=told, stdout=told) as unit:
            hang_up = partial(unit.send_signal, signal.SIGHUP)
            try:
                wait_until(lambda: unit.poll() is not None or "connected to the broker" in log.read_text())
                for number in range(TIMES):
                    resumes = bool(number % 2)
                    verb = "recognition/resume" if resumes else "recognition/pause"
                    alarm = threading.Timer(dice.uniform(0.0, WITHIN_S), hang_up)
                    alarm.start()
                    answer = ask(site, broker.port, verb)
                    alarm.join()
                    assert answer.status == "ok", answer
                    wait_until(lambda: log.read_text().count("the configuration was read again") > number)  # noqa: B023
                    report = ask(site, broker.port, "health").data or {}
                    assert report["recognition"] == ("running" if resumes else "paused")
                unit.send_signal(signal.SIGTERM)
                assert unit.wait(30) == 0
            finally:
                unit.kill()
    assert "Traceback" not in log.read_text()
