# SPDX-License-Identifier: Apache-2.0
"""One file of the site, its service, Mosquitto, a unit in service: set, refused, taken back; and a newer policy."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.config.load import load_config, load_file
from agent.config.told import read_told
from agent.protocol.record import load, save
from agent.site.records import BrokerRecord
from agent.unit.configuring import STARTS
from tests.simulators.broker import wait_until
from tests.simulators.typed import typed
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import SITE, UNIT, DemoSite
from tools.lib.rig.clock import say_offset
from tools.lib.rig.process import UnitProcess
from tools.lib.rig.unit import CLOCK, CONTROL, UNPLUGGED

pytestmark = [pytest.mark.broker, pytest.mark.timeout(400)]

PATIENCE_S = 120.0  # of a busy machine; a health message comes every ten seconds
LOOK_S = 0.5  # a look at the list of units takes some of the time that the unit needs
POLICY = Path(__file__).parents[2] / "models" / "policy.json"


class Place:
    """A site with its broker, its service and one unit, whose clock and camera the test controls."""

    def __init__(self, folder: Path) -> None:
        self.demo = DemoSite(folder, typed=typed)
        self.demo.create()
        self.site = self.demo.site
        self.broker = DemoBroker(self.site, folder / "broker")
        record = load(self.site.broker_record, BrokerRecord)
        save(self.site.broker_record, msgspec.structs.replace(record, port=self.broker.port))
        scene = folder / "scene.yaml"
        scene.write_text(yaml.safe_dump({"duration": 600, "frames_per_second": 5, "background": {"kind": "room"}}))
        self.control = folder / "control"
        self.control.mkdir()
        say_offset(self.control / CLOCK, 0.0, "synced")
        self.demo.add_unit(port=self.broker.port, protocol=self.broker.protocol, scene=scene)
        content = yaml.safe_load(self.demo.config.read_text())
        content["broker"]["health_interval_s"] = 10
        self.demo.config.write_text(yaml.safe_dump(content))
        program = (sys.executable, "-m", "tools.lib.rig.unit")
        self.unit = UnitProcess(self.demo.config, outbox=self.demo.unit / "outbox.db", program=program)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self.broker:
            words = [sys.executable, "-m", "agent", "site", "serve", "-f", str(self.site.folder)]
            service = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            self.broker.reload(self.site)  # with the rules of the unit
            self.start()
            try:
                yield
            finally:
                self.unit.kill()
                service.send_signal(signal.SIGTERM)
                service.wait()

    def start(self) -> None:
        self.unit.start(**{CONTROL: str(self.control)})

    def has_starts(self, count: int) -> bool:
        told = read_told(load_file(self.demo.config))
        return told is not None and told.starts == count

    def apply(self, settings: dict[str, Any]) -> None:
        path = self.demo.folder / "fleet.yaml"
        path.write_text(yaml.safe_dump({"site": SITE, "units": {UNIT: settings}}, sort_keys=False))
        typed("site", "config", "-f", self.site.folder, "check", path)
        typed("site", "config", "-f", self.site.folder, "apply", path)

    def listed(self) -> dict[str, Any]:
        (unit,) = json.loads(typed("site", "units", "-f", self.site.folder, "--json"))
        found: dict[str, Any] = unit
        return found

    def fares(self, serial: int, state: str) -> bool:
        found = self.listed()["configuration"]
        return found is not None and (found["serial"], found["state"]) == (serial, state)

    @property
    def dwell_ms(self) -> int:
        return load_config(self.demo.config).activation.dwell_ms  # type: ignore[union-attr]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.running():
        yield made


def test_a_site_sets_a_running_unit_and_a_unit_that_is_not_well_takes_it_back(place: Place) -> None:
    wait_until(lambda: place.listed()["state"] == "online", PATIENCE_S, every_s=LOOK_S)
    assert place.listed()["configuration"] is None
    place.apply({"activation": {"dwell_ms": 900}})
    wait_until(lambda: place.fares(1, "trying") or place.fares(1, "applied"), PATIENCE_S, every_s=LOOK_S)
    wait_until(lambda: place.fares(1, "applied"), PATIENCE_S, every_s=LOOK_S)
    assert place.dwell_ms == 900

    place.apply({"activation": {"dwell_ms": 300}})  # looser than the unit's own file
    wait_until(lambda: place.fares(2, "refused"), PATIENCE_S, every_s=LOOK_S)
    assert "fleet.yaml:5: activation.dwell_ms" in place.listed()["configuration"]["why"]
    assert place.dwell_ms == 900

    before = place.listed()["policy"]
    typed("site", "policy", "-f", place.site.folder, POLICY, "--target-fpir", "0.01", "-o", place.demo.folder / "p.jws")
    wait_until(lambda: place.listed()["policy"] != before, PATIENCE_S, every_s=LOOK_S)
    assert (place.demo.unit / "policy.jws").read_text().strip() == (place.demo.folder / "p.jws").read_text().strip()
    assert not any("policy" in advice for advice in place.listed()["advice"])
    assert place.unit.running, "one process since the start: no restart"

    place.apply({"activation": {"dwell_ms": 1200}})
    wait_until(lambda: place.fares(3, "trying"), PATIENCE_S, every_s=LOOK_S)
    (place.control / UNPLUGGED).touch()  # it is never well on them, and killed again and again
    for left in range(STARTS - 1, -1, -1):
        wait_until(partial(place.has_starts, left), PATIENCE_S, every_s=LOOK_S)
        place.unit.kill()
        place.start()
    wait_until(lambda: place.fares(3, "rolled_back"), PATIENCE_S, every_s=LOOK_S)
    assert f"ended {STARTS} times" in place.listed()["configuration"]["why"]
    assert place.dwell_ms == 900
