# SPDX-License-Identifier: Apache-2.0
"""Attacks on the broker as deployed: no right, no session; and nobody speaks or reads for another."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.clock import SystemClock
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import Credentials
from agent.mqtt.refusals import NOT_AUTHORISED
from tests.simulators.broker import RealBroker, connect, wait_until
from tests.simulators.pki import DAY, Authority
from tests.simulators.ports import free_port

pytestmark = pytest.mark.broker

NOW = datetime.now(UTC)
BASE = "postern/hq/door-1"
CONNECT = bytes.fromhex("101000044d5154540502003c000003783132")  # of MQTT 5, client id "x12"

# Where door-1 must not speak, whatever the access list looks like.
NOT_DOOR_1 = (
    "postern/hq/door-2/event/match",
    "postern/hq/door-2/backlog/match",
    "postern/hq/door-2/availability",
    "postern/hq/door-2/response/health",
    "postern/hq/door-2/request/health",
    "postern/hq/door-2/request/recognition/pause",
    "postern/other/door-1/event/match",
    "postern/annex/door-1/event/match",
    f"{BASE}/request/selftest",
    f"{BASE}/request/recognition/pause",
    f"{BASE}/event/match/deeper",
    f"{BASE}/other",
    "homeassistant/device/postern-hq/door-2/config",
    "homeassistant/lock/door-1/config",
    "homeassistant/status",
    "$SYS/broker/load",
)


def unchecked_session(broker: RealBroker, credentials: Credentials | None) -> None:
    """What an attacker does: connect with whatever is at hand, without the agent's own checks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(broker.authority.ca)
    if credentials is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    with (
        socket.create_connection(("127.0.0.1", broker.port), 5) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as session,
    ):
        session.settimeout(5)
        session.sendall(CONNECT)
        if not session.recv(4):
            raise ConnectionResetError("closed without an answer")


def refused(broker: RealBroker, credentials: Credentials | None) -> bool:
    """Whether there was no session; whether the broker's reason arrives before its hang-up is a race."""
    try:
        unchecked_session(broker, credentials)
    except (ssl.SSLError, ConnectionError):
        return True
    return False


def publish(broker: RealBroker, name: str, topic: str, payload: bytes = b"forged", **changes: object) -> int:
    """Publish as ``name`` and return the broker's reason code."""
    listener = connect(broker, broker.authority.issue(name), name, **changes)
    listener.connection.publish(topic, payload)
    (ack,) = listener.acks(1)
    listener.connection.close()
    return ack.reason


def test_no_certificate_gets_no_session(broker: RealBroker) -> None:
    assert refused(broker, None)


def test_certificate_of_a_foreign_authority_gets_no_session(broker: RealBroker, tmp_path: Path) -> None:
    assert refused(broker, Authority(tmp_path, "evil").issue("door-1"))


def test_certificate_of_a_foreign_authority_with_the_same_name_gets_no_session(
    broker: RealBroker, tmp_path: Path
) -> None:
    assert refused(broker, Authority(tmp_path).issue("door-1"))


def test_expired_certificate_gets_no_session(broker: RealBroker) -> None:
    old = broker.authority.issue("old", begins=NOW - 9 * DAY, ends=NOW - 2 * DAY)
    assert refused(broker, old)


def test_server_certificate_is_no_unit(broker: RealBroker) -> None:
    assert refused(broker, broker.authority.issue("door-7", server=True))


def test_plain_text_gets_nowhere(broker: RealBroker) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    for _ in range(20):
        client.loop(0.02)
    assert not client.is_connected()


def test_revoked_certificate_is_refused_after_a_reload_and_after_a_restart(tmp_path: Path) -> None:
    broker = RealBroker(tmp_path, Authority(tmp_path / "pki"))
    broker.start()
    stolen, honest = broker.authority.issue("door-1"), broker.authority.issue("door-2")
    unchecked_session(broker, stolen)
    broker.authority.revoke(stolen)
    broker.renew_crl()
    wait_until(lambda: refused(broker, stolen))
    broker.stop()
    broker.start()
    with pytest.raises(BrokerError, match=r"revoked|may not accept"):
        Connection(broker.settings(stolen), client_id="door-1", clock=SystemClock()).open()
    connect(broker, honest, "door-2").connection.close()
    broker.stop()


@pytest.mark.parametrize("topic", NOT_DOOR_1)
def test_unit_cannot_publish_outside_its_own_leaves(broker: RealBroker, topic: str) -> None:
    assert publish(broker, "door-1", topic) == 0x87


@pytest.mark.parametrize(
    "topic",
    [
        *(
            f"{BASE}/{leaf}"
            for leaf in ("availability", "info", "health", "event/match", "backlog/unit", "response/a/b")
        ),
        "homeassistant/device/postern-hq/door-1/config",
    ],
)
def test_unit_can_publish_its_own_leaves(broker: RealBroker, topic: str) -> None:
    assert publish(broker, "door-1", topic) < 0x80


def test_unit_cannot_read_anything_but_its_requests(broker: RealBroker) -> None:
    spy = connect(broker, broker.authority.issue("door-9"), "door-9", "#", "postern/#", "postern/hq/door-1/#", "$SYS/#")
    operator = connect(broker, broker.authority.issue("operator"), "operator")
    for topic in (f"{BASE}/request/health", "postern/hq/door-9/request/health"):
        operator.connection.publish(topic, b"x")
    assert publish(broker, "door-1", f"{BASE}/event/match") < 0x80
    assert publish(broker, "door-1", f"{BASE}/response/health") < 0x80
    spy.pump(lambda: spy.messages)
    spy.messages += spy.connection.poll(0.1).messages
    assert set(spy.topics()) == {"postern/hq/door-9/request/health"}


@pytest.mark.parametrize("name", ["+", "#", "door-1/event", "+/event", "$SYS"])
def test_name_that_is_a_wildcard_or_a_path_opens_nobody_elses_branch(broker: RealBroker, name: str) -> None:
    """A site's authority must not sign such a name; if one did, the broker still gives it nothing of others."""
    credentials = broker.authority.issue(name, file="hostile")
    try:
        listener = connect(broker, credentials, name)
    except BrokerError:
        return  # not even a session
    for topic in (f"{BASE}/event/match", "postern/hq/+/event/match".replace("+", "door-2")):
        listener.connection.publish(topic, b"forged")
    assert [ack.reason for ack in listener.acks(2)] == [0x87, 0x87]
    listener.connection.close()
    spy = connect(broker, credentials, name, "postern/hq/+/request/#")
    operator = connect(broker, broker.authority.issue("operator"), "operator")
    operator.connection.publish(f"{BASE}/request/health", b"secret")
    operator.acks(1)
    assert spy.connection.poll(0.1).messages == []


def test_client_id_of_another_unit_does_not_take_its_session(broker: RealBroker) -> None:
    victim = connect(broker, broker.authority.issue("door-1"), "door-1")
    attacker = connect(broker, broker.authority.issue("door-9"), "door-1", "postern/hq/door-1/request/#")
    victim.connection.publish(f"{BASE}/event/match", b"still here")
    assert victim.acks(1)[0].accepted
    attacker.connection.publish(f"{BASE}/event/match", b"forged")
    assert attacker.acks(1)[0].reason == 0x87


def test_home_assistant_reads_no_backlog_and_commands_nobody(broker: RealBroker) -> None:
    home = connect(broker, broker.authority.issue("home-assistant"), "home-assistant", "postern/#")
    for leaf in ("backlog/match", "response/health", "event/match"):
        assert publish(broker, "door-1", f"{BASE}/{leaf}") < 0x80
    home.pump(lambda: home.messages)
    assert home.topics() == [f"{BASE}/event/match"]
    assert publish(broker, "home-assistant", f"{BASE}/request/recognition/pause") == 0x87
    assert publish(broker, "home-assistant", f"{BASE}/event/match") == 0x87


def test_auditor_publishes_nothing_for_a_unit(broker: RealBroker) -> None:
    assert publish(broker, "auditor", f"{BASE}/event/match") == 0x87
    assert publish(broker, "auditor", f"{BASE}/request/selftest") == 0x87


def test_packet_beyond_the_limit_ends_the_senders_connection_alone(broker: RealBroker) -> None:
    witness = connect(broker, broker.authority.issue("auditor"), "auditor", "postern/hq/+/event/+")
    flooder = connect(broker, broker.authority.issue("door-9"), "door-9")
    assert flooder.connection.max_packet_bytes == 32_768
    flooder.connection.publish("postern/hq/door-9/event/match", b"x" * 40_000)
    with pytest.raises(BrokerError):
        wait_until(lambda: flooder.connection.poll(0.02).acks)
    assert publish(broker, "door-1", f"{BASE}/event/match") < 0x80
    witness.pump(lambda: witness.messages)
    assert witness.topics() == [f"{BASE}/event/match"]


def test_listener_that_is_added_later_lets_nobody_in_by_itself(tmp_path: Path) -> None:
    """The rules are of the whole broker: a plain listener for some gadget is no way around the certificates."""
    broker, plain = RealBroker(tmp_path, Authority(tmp_path / "pki")), free_port()
    broker.config.write_text(f"{broker.config.read_text()}listener {plain} 127.0.0.1\n")
    broker.start()
    try:
        with socket.create_connection(("127.0.0.1", plain), 5) as session:
            session.settimeout(5)
            session.sendall(CONNECT)
            answer = session.recv(64)
        assert answer[:1] == b"\x20", "CONNACK"
        assert answer[3] == NOT_AUTHORISED
    finally:
        broker.stop()
