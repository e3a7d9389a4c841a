# SPDX-License-Identifier: Apache-2.0
"""Units that join over a real Mosquitto, all at once: the service and the broker are processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from agent.clock import Clock, SystemClock
from agent.errors import PosternError, RefusedError
from agent.mqtt.connection import Connection
from agent.mqtt.records import Ack, BrokerSettings
from agent.protocol.invitation import read_invitation
from agent.protocol.record import load, save
from agent.site import joining
from agent.site.creation import create_site
from agent.site.delegation import delegate
from agent.site.folder import SYSTEM_CLOCK
from agent.site.programs import issue_broker
from agent.site.records import BrokerRecord, SiteFiles
from agent.unit.invited import join
from tools.lib.demo.brokers import DemoBroker
from tools.lib.lifetime.unit import FleetUnit

SITE = "hq"
AT_ONCE = 10  # units that ask at the same time: those of one installer
FOLLOW_S = 0.2  # between two looks at the access list, as the broker's path unit does it
TAKEN_S = 30.0  # until the broker has the list of a unit that has just joined


class LiveSite:
    """A site with its broker and its service, on this machine."""

    def __init__(self, folder: Path, *, made_by: Clock = SYSTEM_CLOCK) -> None:
        """``made_by`` is the clock by which the site was made and delegated."""
        self.folder, self._made_by = folder / "site", made_by
        self.files = SiteFiles(self.folder)
        self.make()
        self.broker = DemoBroker(self.files, folder / "broker")
        record = load(self.files.broker_record, BrokerRecord)
        save(
            self.files.broker_record,
            BrokerRecord(version=1, certificates=record.certificates, hosts=record.hosts, port=self.broker.port),
        )
        if self.broker.protocol != "5":
            raise RefusedError("this needs a real broker: apt-get install mosquitto")
        self._following = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._service: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the site, and the broker's certificate."""
        create_site(self.folder, SITE, clock=self._made_by)
        issue_broker(self.folder, ["127.0.0.1"])
        delegate(self.folder, clock=self._made_by)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Broker, service, and what carries the lists from one to the other."""
        with self.broker:
            self._thread.start()
            self.start_service()
            try:
                yield
            finally:
                self.stop_service()
                self.stop_following()

    def start_service(self) -> None:
        """Start ``postern site serve``."""
        words = [sys.executable, "-m", "agent", "site", "serve", "-f", str(self.folder), "--broker", "127.0.0.1"]
        self._service = subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def stop_service(self, how: int = signal.SIGTERM) -> None:
        """End it, by SIGTERM or SIGKILL."""
        if self._service is not None:
            self._service.send_signal(how)
            self._service.wait()
            self._service = None

    def stop_following(self) -> None:
        """Have the broker hear of no further change."""
        self._following.set()
        self._thread.join()

    def _follow(self) -> None:
        """Do what ``postern-broker.path`` does."""
        before = self._lists()
        while not self._following.wait(FOLLOW_S):
            if (now := self._lists()) != before:
                before = now
                self.broker.reload(self.files)

    def _lists(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in (self.files.acl, self.files.crl))


def join_all(folder: Path, count: int) -> dict[str, object]:
    """Invite so many units, let all of them join, and let each say at the broker how it is."""
    site = LiveSite(folder)
    names = [f"door-{number}" for number in range(1, count + 1)]
    with site.running():
        began = time.monotonic()
        texts = {name: joining.invite(site.folder, name, accepted=True) for name in names}
        invited = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as installers:
            taken = list(installers.map(lambda name: _join(folder / name, texts[name], site), names))
        ended = time.monotonic()
    return {
        "units": count,
        "joined": sum(error is None for error in taken),
        "errors": sorted({error for error in taken if error is not None}),
        "seconds_inviting": round(invited - began, 1),
        "seconds_joining": round(ended - invited, 1),
        "cores": os.cpu_count(),
    }


def _join(keys: Path, text: str, site: LiveSite) -> str | None:
    clock = SystemClock()
    invitation = read_invitation(text)
    try:
        join(
            invitation,
            keys / "keys",
            policy=keys / "policy.jws",
            clock=clock,
            patience_s=250,
            tell=lambda _: None,
        )
        _speak(keys / "keys", invitation.unit, site, clock)
    except PosternError as error:
        return str(error)
    return None


def _speak(keys: Path, name: str, site: LiveSite, clock: SystemClock) -> None:
    """Say at the broker how this unit is, until the broker lets it."""
    unit = FleetUnit(keys, SITE, name, clock)
    settings = BrokerSettings("127.0.0.1", unit.credentials, port=site.broker.port)
    connection = Connection(settings, client_id=name, clock=clock, session_expiry_s=0)
    connection.open()
    try:
        end = time.monotonic() + TAKEN_S
        while time.monotonic() < end:
            connection.publish(f"postern/{SITE}/{name}/health", unit.health())
            acks: list[Ack] = []
            while not acks:
                acks = connection.poll(0.2).acks
            if acks[0].accepted:
                return
            time.sleep(FOLLOW_S)
        raise RefusedError("the broker does not let a unit speak that has joined")
    finally:
        connection.close()
        unit.close()
