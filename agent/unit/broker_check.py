# SPDX-License-Identifier: Apache-2.0
"""What ``postern doctor`` asks the broker: whether it is the site's, knows this unit, and lets it do its work."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Final, Literal

from agent.clock import Clock
from agent.config.schema import Config
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import load_identity
from agent.mqtt.records import BrokerSettings
from agent.mqtt.refusals import explain_tls
from agent.protocol.event import KINDS
from agent.protocol.topics import Topics
from agent.unit.assemble import credentials_of
from agent.unit.held import is_held

BROKER_TIMEOUT_S: Final = 5.0  # for TCP and TLS together; a slow mobile link needs about 2 s
VERDICT_S: Final = 0.7  # TLS 1.3 tells its verdict on our certificate after the handshake (RFC 8446, 4.4.2.4)
SELF_TEST: Final = "unit/self-test"  # a verb, whose answers nobody waits for now

Found = Iterator[tuple[Literal["ok", "advice", "fault"], str]]


def check_broker(config: Config, clock: Clock) -> Found:
    """TCP, the broker's certificate, its verdict on ours, and what its access list lets this unit do."""
    identity = load_identity(credentials_of(config), clock, common_name=config.unit.id)
    host, port = config.broker.host, config.broker.port
    place = f"{host}:{port}"
    try:
        with (
            socket.create_connection((host, port), timeout=BROKER_TIMEOUT_S) as plain,
            identity.context.wrap_socket(plain, server_hostname=host) as session,
        ):
            version = session.version()
            session.settimeout(VERDICT_S)
            closed = _closed_by_peer(session)
    except OSError as error:  # ssl.SSLError is one
        raise BrokerError(explain_tls(place, error)) from error
    if closed:
        raise BrokerError(f"the broker {place} closed the session at once: look for the reason in its log")
    yield "ok", f"{place} is the site's and takes this unit's certificate ({version})"
    yield from _permissions(config, clock)


def _permissions(config: Config, clock: Clock) -> Found:
    """Say nothing on every topic of the unit, and listen for requests: an empty message changes nothing anywhere.

    Brokers name a session after the certificate, so this would put a running unit's out; that one tells by itself.
    """
    broker, topics = config.broker, Topics(config.unit.site, config.unit.id)
    if broker.protocol != "5":
        yield "advice", "MQTT 3.1.1 does not tell what an access list refuses: set broker.protocol to '5' to know it"
        return
    if is_held(config):
        yield "ok", "the unit runs: what the broker refuses stands in its log (journalctl -u postern)"
        return
    settings = BrokerSettings(broker.host, credentials_of(config), port=broker.port, protocol=broker.protocol)
    connection = Connection(settings, client_id=config.unit.id, session_expiry_s=0, clock=clock)
    connection.open()
    try:
        connection.subscribe(topics.requests)
        own = [topics.availability, topics.info, topics.health, topics.response(SELF_TEST)]
        own += [topic for kind in KINDS for topic in (topics.event(kind), topics.backlog(kind))]
        own += [topics.discovery] if broker.home_assistant else []
        waiting = {connection.publish(topic, b"", expiry_s=1): topic for topic in own}
        refused, deadline = [], time.monotonic() + BROKER_TIMEOUT_S
        while waiting and time.monotonic() < deadline:
            for ack in connection.poll(0.1).acks:
                topic = waiting.pop(ack.mid, "")
                refused += [topic] if topic and not ack.accepted else []
    finally:
        connection.close()
    if waiting:
        raise BrokerError(f"the broker does not answer for {', '.join(waiting.values())}: look at its log")
    if refused:
        advice = "give it the site's newest acl, then have it read the file again or restart it"
        yield "fault", f"the broker refuses {', '.join(refused)}: {advice}"
    else:
        yield "ok", f"the broker lets this unit write its {len(own)} topics, and takes its subscription"


def _closed_by_peer(session: ssl.SSLSocket) -> bool:
    try:
        return session.recv(1) == b""
    except TimeoutError:
        return False
