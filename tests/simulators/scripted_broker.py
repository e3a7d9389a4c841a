# SPDX-License-Identifier: Apache-2.0
"""A broker that misbehaves on script, over real TLS: any reason code, hang-ups, silence, and plain nonsense.

It knows just enough MQTT 5 to talk to one client at a time; a real broker cannot be made to do these things.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import datetime

from agent.mqtt.credentials import Credentials
from agent.mqtt.records import BrokerSettings
from tests.simulators.pki import Authority

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 12, 14
HANG_UP = b""
SEND_TIMEOUT_S = 10  # for what a client takes its time to read


def connack(reason: int = 0) -> bytes:
    return bytes([0x20, 3, 0, reason, 0])


def puback(mid: int, reason: int = 0) -> bytes:
    return bytes([0x40, 3, *mid.to_bytes(2, "big"), reason])


def publish(topic: str, mid: int, content: bytes) -> bytes:
    """A PUBLISH at QoS 1 of at most 127 bytes."""
    body = len(topic).to_bytes(2, "big") + topic.encode() + mid.to_bytes(2, "big") + b"\0" + content
    return bytes([0x32, len(body)]) + body


def disconnect(reason: int) -> bytes:
    return bytes([0xE0, 1, reason])


class ScriptedBroker:
    """``on_publish(topic, mid)`` gives the bytes to answer with, ``HANG_UP``, or None for silence."""

    def __init__(self, authority: Authority, *, ends: datetime | None = None) -> None:
        self.on_publish: Callable[[str, int], bytes | None] = lambda _, mid: puback(mid)
        self.greeting: bytes | None = connack()
        self.after_greeting = b""
        self.granted = 1  # the reason code of each subscription
        self.connections = 0
        self.published: list[str] = []
        self._authority = authority
        server = authority.issue("scripted", server=True, ends=ends)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(server.certificate, server.key)
        self._context.load_verify_locations(authority.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def settings(self, credentials: Credentials, **changes: object) -> BrokerSettings:
        port = self._listener.getsockname()[1]
        return BrokerSettings("127.0.0.1", credentials, port=port, **changes)  # type: ignore[arg-type]

    def close(self) -> None:
        self._closing.set()
        self._thread.join(3)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                client.settimeout(2)
                with client, self._context.wrap_socket(client, server_side=True) as session:
                    session.settimeout(0.05)
                    self.connections += 1
                    self._talk(session)

    def _talk(self, session: ssl.SSLSocket) -> None:
        while not self._closing.is_set():
            try:
                packet = self._packet(session)
            except TimeoutError:
                continue
            if packet is None:
                return
            kind, flags, body = packet
            if kind == CONNECT and self.greeting is not None:
                session.settimeout(SEND_TIMEOUT_S)
                session.sendall(self.greeting + self.after_greeting)
                session.settimeout(0.05)
            elif kind == SUBSCRIBE:
                session.sendall(bytes([0x90, 4, *body[:2], 0, self.granted]))
            elif kind == PINGREQ:
                session.sendall(b"\xd0\x00")
            elif kind == DISCONNECT or (kind == PUBLISH and not self._answer(session, flags, body)):
                return

    def _answer(self, session: ssl.SSLSocket, flags: int, body: bytes) -> bool:
        length = int.from_bytes(body[:2], "big")
        topic, mid = body[2 : 2 + length].decode(), int.from_bytes(body[2 + length : 4 + length], "big")
        assert flags & 0b0110 == 0b0010, "the uplink publishes at QoS 1"
        self.published.append(topic)
        answer = self.on_publish(topic, mid)
        if answer:
            session.sendall(answer)
        return answer != HANG_UP

    def _packet(self, session: ssl.SSLSocket) -> tuple[int, int, bytes] | None:
        first = session.recv(1)
        if not first:
            return None
        session.settimeout(1)
        length, shift = 0, 0
        while True:
            (digit,) = session.recv(1)
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                break
        body = b""
        while len(body) < length:
            body += session.recv(length - len(body))
        session.settimeout(0.05)
        return first[0] >> 4, first[0] & 0xF, body
