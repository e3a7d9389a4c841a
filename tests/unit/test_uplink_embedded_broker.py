# SPDX-License-Identifier: Apache-2.0
"""The demo's embedded broker: events arrive through it over mutual TLS, and nobody without a certificate gets in."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from tests.simulators.broker import Listener, wait_until
from tests.simulators.pki import Authority
from tests.simulators.ports import free_port
from tests.simulators.unit_on_broker import UnitOnBroker

pytest.importorskip("amqtt")


class Embedded:
    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.authority.issue("broker", server=True)
        self.port = free_port()
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.lib.demo.embedded", str(folder), str(self.port)],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        wait_until(self._answers, 30)

    def settings(self, credentials: Credentials) -> BrokerSettings:
        return BrokerSettings("127.0.0.1", credentials, port=self.port, protocol="3.1.1")

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(10) == 0

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    broker = Embedded(tmp_path_factory.mktemp("embedded"))
    yield broker
    broker.close()


def test_event_arrives_through_the_embedded_broker(embedded: Embedded, tmp_path: Path) -> None:
    connection = Connection(
        embedded.settings(embedded.authority.issue("auditor")), client_id="auditor", clock=SystemClock()
    )
    connection.open()
    connection.subscribe("postern/hq/+/event/+")
    auditor = Listener(connection)
    unit = UnitOnBroker(tmp_path, embedded.settings(embedded.authority.issue("door-1")))
    unit.start()
    unit.say()
    auditor.pump(lambda: auditor.messages)
    assert auditor.topics() == ["postern/hq/door-1/event/match"]
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.uplink.stop()
    connection.close()


def test_nobody_without_a_certificate_gets_a_session(embedded: Embedded) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(embedded.authority.ca)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _greet(context, embedded.port)


def _greet(context: ssl.SSLContext, port: int) -> None:
    with (
        socket.create_connection(("127.0.0.1", port), 5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as session,
    ):
        session.settimeout(5)
        session.sendall(bytes.fromhex("100d00044d5154540402003c000178"))
        if not session.recv(4):
            raise ConnectionResetError("closed without an answer")
