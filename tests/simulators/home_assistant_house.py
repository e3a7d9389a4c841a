# SPDX-License-Identifier: Apache-2.0
"""A house with Postern and Home Assistant: each part a process of its own, made by the commands of the documents.

The camera sees drawn people, as told; the unit's clock is the machine's, and somebody vouches for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from agent.clock import SystemClock
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings, Incoming
from agent.protocol.pseudonym import epochs_from
from agent.unit.key_files import UnitFiles
from tests.simulators.broker import wait_until
from tests.simulators.home_assistant import HomeAssistant
from tools.lib.demo.brokers import DemoBroker
from tools.lib.demo.site import SITE, DemoSite, postern
from tools.lib.rig.clock import say_offset
from tools.lib.rig.installation import apply
from tools.lib.rig.process import UnitProcess
from tools.lib.rig.proxy import FaultyProxy
from tools.lib.rig.service import CONTROLLED
from tools.lib.rig.unit import BEGAN, CLOCK, CONTROL

ROOT = Path(__file__).parents[2]
PEOPLE = {"person-01": "anna Anna Bauer", "person-02": "ben Ben Okoye"}
PROGRAMS = {
    "home-assistant": "home-assistant",
    "announcer": "announcer",
    "bridge": "auditor",
    "guest": "home-assistant",  # who looks at what the broker keeps: a second session of one name ends the first
    "guard": "auditor",
}
PRESENCE_S = 12  # how long somebody is "here" after they were seen
UNIT_S = 60.0  # for a unit to start, or to say what it saw
EMPTY: dict[str, Any] = {
    "size": [640, 360],
    "duration": 300,
    "frames_per_second": 8,
    "seed": 1,
    "background": {"kind": "room", "variant": 11},
}
BRIDGE = """\
site: {site}
broker: {{host: 127.0.0.1, port: {port}}}
keys: {keys}
state: state
people: people
epoch_keys: epoch-keys
outputs:
  - {{kind: home-assistant, name: home, keys: {announcer}, presence_s: {presence_s}}}
"""


class House:
    """Use it in a ``with`` block: a broker, Home Assistant set up with it, one unit that knows two people, a bridge."""

    def __init__(self, folder: Path) -> None:
        self.site = DemoSite(folder / "site")
        self.control = folder / "control"
        self.bridge_folder = folder / "bridge"
        self._scene = folder / "scene.yaml"
        self._stack = ExitStack()
        self._bridge: subprocess.Popen[bytes] | None = None
        self._changes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        site = self.site
        for one in (site.folder, self.control):
            one.mkdir()
        site.create()
        self.broker = self._stack.enter_context(DemoBroker(site.site, site.folder / "broker"))
        self.link = self._stack.enter_context(FaultyProxy(self.broker.port))
        self.see()
        site.add_unit(port=self.link.port, protocol="5", scene=self._scene)
        for name, role in PROGRAMS.items():
            postern("site", "add-program", "-f", site.site.folder, name, "--role", role)
        self.broker.reload(site.site)
        self.subjects = {who: site.enrol(who, port=self.link.port, protocol="5")[0] for who in PEOPLE}
        self.configure()
        say_offset(self.control / CLOCK, 0.0, "synced")
        self.unit = UnitProcess(site.config, outbox=site.unit / "outbox.db", program=CONTROLLED)
        self._lay_down_bridge()
        self.home = HomeAssistant(ROOT / "deploy" / "home-assistant" / "automation.yaml")
        self._stack.callback(self.home.close)
        self.home.start()
        self.home.add_broker(self.broker.port, site.site.client("home-assistant"))
        return self

    def __exit__(self, *_: object) -> None:
        self.unit.kill()
        self.stop_bridge()
        self._stack.close()

    # -- the unit ------------------------------------------------------------------------------------

    def see(self, *people: Mapping[str, Any]) -> None:
        """What the camera sees from the unit's next start on."""
        self._scene.write_text(yaml.safe_dump({**EMPTY, "people": list(people)}))
        (self.control / BEGAN).unlink(missing_ok=True)

    def configure(self, **changes: object) -> None:
        """The unit's file from its next start on: ``unit__name`` is ``unit.name``."""
        self._changes |= {key.replace("__", "."): value for key, value in changes.items()}
        site = self.site
        site.write_config(site.config, port=self.link.port, protocol="5", scene=self._scene)
        content = yaml.safe_load(site.config.read_text())
        apply(content, {"unit.name": "Front door", **self._changes})
        site.config.write_text(yaml.safe_dump(content, sort_keys=False))

    def start_unit(self) -> None:
        self.unit.log.clear()
        self.unit.start(**{CONTROL: str(self.control)})
        wait_until(lambda: self.unit_said("connected to the broker"), UNIT_S)

    def unit_said(self, words: str) -> bool:
        assert self.unit.running or self.unit.status is not None, list(self.unit.log)
        return any(words in line for line in list(self.unit.log))

    def say_as_the_unit(self, leaf: str, payload: bytes) -> None:
        """By whoever has the unit's card while it is off: the broker lets them."""
        files = UnitFiles(self.site.unit / "keys")
        credentials = Credentials(files.ca_crt, files.tls_crt, files.tls_key)
        settings = BrokerSettings("127.0.0.1", credentials, port=self.broker.port)
        connection = Connection(settings, client_id="door-1", clock=SystemClock())
        connection.open()
        mid = connection.publish(f"postern/{SITE}/door-1/{leaf}", payload)
        wait_until(lambda: any(ack.mid == mid for ack in connection.poll(0.1).acks))
        connection.close()

    # -- the bridge ----------------------------------------------------------------------------------

    def _lay_down_bridge(self) -> None:
        folder, site = self.bridge_folder, self.site.site
        for one in (folder, folder / "epoch-keys", folder / "state"):
            one.mkdir(mode=0o700)
        for week in epochs_from(SystemClock().now()):
            postern(
                "site", "epoch-key", "-f", site.folder, "access", week, "-o", folder / "epoch-keys" / f"{week}.json"
            )
        self.know(*PEOPLE)
        keys = site.client("bridge")
        text = BRIDGE.format(
            site=SITE, port=self.broker.port, keys=keys, announcer=site.client("announcer"), presence_s=PRESENCE_S
        )
        (folder / "bridge.yaml").write_text(text)

    def know(self, *who: str) -> None:
        """Whom the bridge's map names."""
        people = self.bridge_folder / "people"
        people.write_text("".join(f"{self.subjects[one]} {PEOPLE[one]}\n" for one in who))
        people.chmod(0o600)

    def start_bridge(self) -> None:
        command = [sys.executable, "-m", "agent", "bridge", str(self.bridge_folder / "bridge.yaml")]
        with (self.bridge_folder / "log").open("wb") as log:
            self._bridge = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=dict(os.environ))
        wait_until(lambda: "listening to site" in self.bridge_log(), UNIT_S)

    def stop_bridge(self) -> None:
        if self._bridge is not None:
            self._bridge.send_signal(signal.SIGTERM)
            self._bridge.wait(UNIT_S)
            self._bridge = None

    def bridge_log(self) -> str:
        return (self.bridge_folder / "log").read_text()

    # -- the broker ----------------------------------------------------------------------------------

    def retained(self) -> list[str]:
        """What the broker keeps for whoever subscribes later, by topic."""
        found: list[Incoming] = []
        for name, filters in (
            ("guest", ("homeassistant/#", f"postern-people/{SITE}/#")),
            ("guard", (f"postern/{SITE}/+/availability", f"postern/{SITE}/+/info")),
        ):
            keys = self.site.site.client(name)
            credentials = Credentials.in_folder(keys)
            settings = BrokerSettings("127.0.0.1", credentials, port=self.broker.port)
            connection = Connection(settings, client_id=name, clock=SystemClock())
            connection.open()
            for topic in filters:
                connection.subscribe(topic)
            for _ in range(10):
                found += connection.poll(0.05).messages
            connection.close()
        return sorted(one.topic for one in found if one.retained)
