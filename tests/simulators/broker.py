# SPDX-License-Identifier: Apache-2.0
"""A real Mosquitto on a free loopback port, run with the files of ``deploy/mosquitto``, and a client to look at it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agent.clock import SystemClock
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import Ack, BrokerSettings, Incoming
from agent.site.records import SiteFiles
from tests.simulators.pki import Authority
from tests.simulators.ports import free_port

T = TypeVar("T")
DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
# How many times slower than usual this machine is, as under emulation.
SLOWNESS = float(os.environ.get("POSTERN_SLOWNESS", "1"))
PATIENCE_S = 30.0 * SLOWNESS  # a busy machine; nothing here normally takes a second


def wait_until(condition: Callable[[], object], patience_s: float = PATIENCE_S, *, every_s: float = 0.01) -> None:
    """Poll until ``condition`` holds; fails the test when it does not in time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every_s)


def wait_while_more_comes(arrived: Callable[[], set[T]], wanted: set[T]) -> None:
    """Until all that is ``wanted`` arrived, however long that takes; fails once nothing more comes for a while.

    It looks seldom: who counts ten thousand things a hundred times a second keeps the receiver from its work.
    """
    while not (have := arrived()) >= wanted:
        wait_until(lambda have=have: len(arrived()) > len(have), 4 * PATIENCE_S, every_s=0.3)  # type: ignore[misc]


class RealBroker:
    """Start, stop, kill and restart Mosquitto; the certificates come from ``authority``."""

    def __init__(self, folder: Path, authority: Authority, *, site: str = "hq") -> None:
        self.authority = authority
        self.port = free_port()
        self._folder = folder / "mosquitto"
        self._folder.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self.acl = self._folder / "acl"
        self.log = self._folder / "log"
        server = authority.issue("broker", server=True)
        for source, name in ((server.certificate, "broker.crt"), (server.key, "broker.key"), (authority.ca, "ca.crt")):
            shutil.copy(source, self._folder / name)
        self.renew_crl()
        self.acl.write_text((DEPLOY / "acl").read_text().replace("SITE", site))
        self.acl.chmod(0o600)
        self.config = self._folder / "mosquitto.conf"
        self.write_config()

    def use_site(self, files: SiteFiles) -> None:
        """Take certificate, access list and revocation list as the site kit made them, as an installer does."""
        for name in ("broker.crt", "broker.key", "ca.crt", "ca.crl", "acl"):
            shutil.copy(files.broker / name, self._folder / name)
        self.acl.chmod(0o600)
        if self._process is not None:
            self.reload()

    def write_config(self, **changes: str) -> None:
        """Use the deployed configuration with this folder and port, and ``changes`` by option name."""
        text = (DEPLOY / "mosquitto.conf").read_text()
        changes = {"listener": f"{self.port} 127.0.0.1", "persistence_location": f"{self._folder}/", **changes}
        for option, value in changes.items():
            lines = [line for line in text.splitlines() if line.startswith(f"{option} ")]
            assert len(lines) == 1, f"the deployed file must have one line '{option}'"
            text = text.replace(lines[0], f"{option} {value}")
        text = text.replace("/etc/mosquitto/postern", str(self._folder))
        user = "user root\n" if os.geteuid() == 0 else ""  # or it could not read the test's files
        self.config.write_text(f"{user}log_dest file {self.log}\nlog_type all\n{text}")

    def renew_crl(self) -> None:
        shutil.copy(self.authority.crl, self._folder / "ca.crl")
        if self._process is not None:
            told = self._reloads()
            self._process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 10
            while self._reloads() == told and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.1)  # it tells before it has read the list

    def _reloads(self) -> int:
        return self.log.read_text().count("Reloading config")

    def settings(self, credentials: Credentials, **changes: object) -> BrokerSettings:
        return BrokerSettings("127.0.0.1", credentials, port=self.port, **changes)  # type: ignore[arg-type]

    def start(self) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=path)
        assert program is not None
        self._process = subprocess.Popen(
            [program, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._runs_now)
        self._runs += 1

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        time.sleep(0.1)

    def _runs_now(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text() if self.log.exists() else "mosquitto ended"
        # Not when the port opens: a signal that comes before the handlers are set would end it.
        return self.log.exists() and self.log.read_text().count(" running") > self._runs

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE_S)
            self._process = None


@dataclass
class Listener:
    """Collects messages on a connection that the test drives with ``pump``."""

    connection: Connection
    messages: list[Incoming] = field(default_factory=list)

    def pump(self, until: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        end = time.monotonic() + patience_s
        while not until():
            assert time.monotonic() < end, f"waited in vain; got {[m.topic for m in self.messages]}"
            self.messages += self.connection.poll(0.02).messages

    def acks(self, count: int, patience_s: float = PATIENCE_S) -> list[Ack]:
        """The broker's answers to the next ``count`` publishes; ``pump`` would drop them, and this drops messages."""
        found: list[Ack] = []
        wait_until(lambda: found.extend(self.connection.poll(0.02).acks) or len(found) >= count, patience_s)
        return found

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]


def connect(broker: RealBroker, credentials: Credentials, name: str, *filters: str, **changes: object) -> Listener:
    connection = Connection(broker.settings(credentials, **changes), client_id=name, clock=SystemClock())
    connection.open()
    if filters:
        connection.subscribe(*filters)
    return Listener(connection)
