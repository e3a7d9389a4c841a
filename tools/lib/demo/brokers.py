# SPDX-License-Identifier: Apache-2.0
"""A broker for the length of a demo: Mosquitto with the deployed configuration, else an embedded one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, Self

from agent.site.records import SiteFiles

DEPLOYED = Path(__file__).parents[3] / "deploy" / "mosquitto" / "mosquitto.conf"
START_TIMEOUT_S = 15.0


class DemoBroker:
    """Starts on a free loopback port with the site's certificates and access list; stops with the ``with`` block."""

    def __init__(self, site: SiteFiles, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for source in (site.broker / "broker.crt", site.broker / "broker.key", site.ca_crt, site.acl):
            shutil.copy(source, folder / source.name)
        shutil.copy(site.crl, folder / "ca.crl")
        (folder / "acl").chmod(0o600)
        self.port = _free_port()
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        self.protocol: Literal["5", "3.1.1"] = "5" if program is not None else "3.1.1"
        if program is None:
            self.name = "embedded broker (amqtt, MQTT 3.1.1; install mosquitto for MQTT 5 and ACLs)"
            self._command = [sys.executable, "-m", "tools.lib.demo.embedded", str(folder), str(self.port)]
        else:
            self.name = "Mosquitto, MQTT 5"
            self._command = [program, "-c", str(self._mosquitto_config())]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        before = self._starts()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            self._wait_until_it_answers(self._process, before)
        except BaseException:  # also when the program is ended now: no 'with' block has begun that would stop it
            self.stop()
            raise

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], before: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # Mosquitto's port opens before its signal handlers are set: ``reload`` would end it.
        while not (_answers(self.port) and (self.protocol != "5" or self._starts() > before)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"tools/demo: the broker did not start; see {self.folder / 'log'}")
            time.sleep(0.05)

    def _starts(self) -> int:
        """How often Mosquitto told that it runs."""
        log = self.folder / "log"
        return log.read_bytes().count(b" running") if log.exists() else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def crash(self) -> None:
        """End it as a power cut does, and start it again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.start()

    def reload(self, site: SiteFiles) -> None:
        """Take the site's present access and revocation lists, as after each change."""
        shutil.copy(site.acl, self.folder / "acl")
        shutil.copy(site.crl, self.folder / "ca.crl")
        if self._process is not None and self.protocol == "5":
            self._process.send_signal(signal.SIGHUP)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _mosquitto_config(self) -> Path:
        """Rewrite the deployed configuration for this folder and port: what the demo shows is what is deployed."""
        lines = []
        for line in DEPLOYED.read_text().splitlines():
            if line.startswith("listener "):
                line = f"listener {self.port} 127.0.0.1"  # noqa: PLW2901
            elif line.startswith("persistence_location "):
                line = f"persistence_location {self.folder}/"  # noqa: PLW2901
            lines.append(line.replace("/etc/mosquitto/postern", str(self.folder)))
        if os.geteuid() == 0:
            lines.insert(0, "user root")  # it would drop to a user who may not read a private folder
        path = self.folder / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
