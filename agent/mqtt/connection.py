# SPDX-License-Identifier: Apache-2.0
"""One MQTT connection over mutual TLS, driven by its caller's thread: open, poll, close; never reused after a loss.

The MQTT library's own queue, threads and reconnection are not used. Its queue lives in memory only and
resends after a reconnect, and a message that makes the broker hang up would then be sent for ever.
"""

from __future__ import annotations

import functools
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.clock import Clock
from agent.errors import BrokerError, printable
from agent.mqtt.bound import MAX_INCOMING_BYTES, BoundedSocket
from agent.mqtt.credentials import Context, load_identity
from agent.mqtt.records import Ack, BrokerSettings, Incoming, Polled, Will
from agent.mqtt.refusals import CONNECTION_LOST, KEEPALIVE_TIMEOUT, ConnectionLostError, explain_connack, explain_tls

SESSION_EXPIRY_S = 60  # above the will's delay, or the end of the session would send the will at once
RECEIVE_MAXIMUM = 32  # unacknowledged packets that the broker may send at once: bounds our memory
MAX_WAITING = 2 * RECEIVE_MAXIMUM  # messages that may come before the answer to a subscription is waited for no more
MAX_WAITING_BYTES = MAX_WAITING * MAX_INCOMING_BYTES  # read and not handed over yet
MESSAGE_BYTES = 512  # of memory for a message beside its topic and payload
_CALLBACKS = ("on_connect", "on_disconnect", "on_publish", "on_subscribe", "on_message", "on_log")
PACKET_OVERHEAD_BYTES = 128  # headers and properties of a PUBLISH beside topic and payload


class _Client(paho.Client):
    """Takes no address of its own before it connects: the service's sandbox refuses every bind (``SocketBindDeny``)."""

    def _create_socket_connection(self) -> socket.socket:
        return socket.create_connection((self._host, self._port), timeout=self._connect_timeout)


class Connection:
    """One connection. Not thread-safe: one thread opens, polls and closes it."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        clock: Clock,
        will: Will | None = None,
        common_name: str | None = None,
        session_expiry_s: int = SESSION_EXPIRY_S,
        manual_ack: bool = False,
        clean_start: bool = False,
        resumes: bool = False,
    ) -> None:
        """``manual_ack``: what comes is acknowledged by ``acknowledge`` alone, else as soon as it was read.

        ``clean_start``: the broker forgets the session that it has, and what waits in it. ``resumes``: the session
        outlives a goodbye as well, for whoever is back in a moment.
        """
        self._settings = settings
        self._manual_ack, self._clean_start, self._resumes = manual_ack, clean_start, resumes
        self._clock = clock
        self._common_name = common_name
        self._session_expiry_s = session_expiry_s
        self._acks: list[Ack] = []
        self._messages: list[Incoming] = []
        self._log: deque[str] = deque(maxlen=4)
        self._connack: int | None = None
        self._waiting_bytes = 0  # of what is in ``_messages``
        self._asked: dict[int, str] = {}  # filters by packet id, until the broker answers
        self._refused: dict[str, str] = {}
        self._lost: int | None = None
        self._why = ""  # this side ended it
        self._expiry_cache: dict[tuple[int | None, str | None], Properties] = {}
        self.max_packet_bytes: int | None = None  # the broker's limits, once connected
        self.receive_maximum: int | None = None
        self._context: Context | None = None
        self._client = self._make_client(client_id, will)

    @property
    def v5(self) -> bool:
        return self._settings.protocol == "5"

    def open(self) -> None:
        """Connect and wait for the broker's consent; blocks at most a few connect timeouts.

        Raises KeyStoreError for our own files, BrokerError for everything on the way to the broker.
        """
        identity = load_identity(self._settings.credentials, self._clock, common_name=self._common_name)
        self._context = identity.context
        self._client.tls_set_context(self._context)
        try:
            self._client.connect(
                self._settings.host,
                self._settings.port,
                self._settings.keepalive_s,
                clean_start=self._clean_start if self.v5 else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=self._connect_properties(),
            )
            sock = self._client.socket()
            if isinstance(sock, socket.socket):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # one event is one small packet: send it now
            self._await_connack()
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
            self.abandon()
            raise BrokerError(explain_tls(self._place, error)) from error
        except BaseException:
            self.abandon()
            raise

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = None,
    ) -> int:
        """Queue one QoS 1 message; returns the packet id that its Ack will carry."""
        properties = self._publish_properties(expiry_s, content_type) if self.v5 else None
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties).mid

    def fits(self, topic: str, payload: bytes) -> bool:
        """Whether the broker takes a message of this size."""
        limit = self.max_packet_bytes
        return limit is None or len(topic.encode()) + len(payload) + PACKET_OVERHEAD_BYTES <= limit

    def subscribe(self, *filters: str, retained: bool = False) -> None:
        """Subscribe at QoS 1, without retained messages unless these are wanted, and wait for the broker's answers.

        The answer stands behind what the broker sends of a resumed session, and that may be more than our receive
        maximum: Mosquitto before 2.0.13 sends up to 32 for each acknowledgement. So behind ``MAX_WAITING`` messages
        nothing is waited for; they have to be taken, and ``poll`` tells later what was refused.

        Raises BrokerError when a filter is refused, or the connection is lost.
        """
        for topic in filters:
            handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
            options = SubscribeOptions(qos=1, retainHandling=handling)
            _, mid = self._client.subscribe(topic, options=options) if self.v5 else self._client.subscribe(topic, qos=1)
            if mid is None:
                raise ConnectionLostError(CONNECTION_LOST, self._place)
            self._asked[mid] = topic
            deadline = time.monotonic() + self._settings.connect_timeout_s
            while mid in self._asked and self._lost is None and len(self._messages) < MAX_WAITING:
                if time.monotonic() > deadline:
                    raise BrokerError(f"the broker {self._place} does not answer a subscription: look at its load")
                self._turn(0.1, None)
            if topic in self._refused:
                raise BrokerError(self._refused.pop(topic))
            if self._lost is not None:
                raise ConnectionLostError(self._lost, self._place, self._why)

    def poll(self, timeout_s: float, wake: socket.socket | None = None) -> Polled:
        """Exchange what is ready, waiting up to ``timeout_s`` or until ``wake`` is readable.

        Raises ConnectionLostError once the connection is gone and everything received was handed over.
        """
        self._turn(timeout_s, wake)
        polled = Polled(self._acks, self._messages, self._refused)
        if self._lost is not None and polled == Polled():
            raise ConnectionLostError(self._lost, self._place, self._why)
        self._acks, self._messages, self._refused, self._waiting_bytes = [], [], {}, 0
        return polled

    def acknowledge(self, messages: Iterable[Incoming]) -> None:
        """Tell the broker that these were taken and need not come again; on a lost connection they will."""
        for message in messages:
            if message.mid and self._lost is None:
                self._guard(functools.partial(self._client.ack, message.mid, 1))

    def close(self, *, keep_session: bool = False) -> None:
        """Say goodbye, so that the broker drops the will and, unless it is to be kept, the session; then close."""
        if self._lost is None and self._client.socket() is not None:
            properties = None
            if self.v5 and not (keep_session or self._resumes):
                properties = _properties(PacketTypes.DISCONNECT)
                properties.SessionExpiryInterval = 0
            self._guard(lambda: self._client.disconnect(properties=properties))
        self.abandon()

    def abandon(self) -> None:
        """Close the socket without a word; the broker will publish the will."""
        for sock in (self._client.socket(), self._context.wrapped if self._context else None):
            if sock is not None:
                sock.close()
        # What refers to itself waits for the garbage collector's rare full run, and this holds a TLS context: over
        # hours of lost connections the process would grow.
        if self._context is not None:
            self._context.wrapped = None
        for callback in _CALLBACKS:
            setattr(self._client, callback, None)

    @property
    def _place(self) -> str:
        return f"{self._settings.host}:{self._settings.port}"

    def _make_client(self, client_id: str, will: Will | None) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if self.v5 else paho.MQTTv311,
            clean_session=None if self.v5 else True,
            manual_ack=self._manual_ack,
            reconnect_on_failure=False,  # also forbids its silent downgrade to MQTT 3.1
        )
        client.connect_timeout = self._settings.connect_timeout_s
        if will is not None:
            properties = _properties(PacketTypes.WILLMESSAGE) if self.v5 else None
            if properties is not None:
                properties.WillDelayInterval = self._settings.will_delay_s
            client.will_set(will.topic, will.payload, qos=1, retain=True, properties=properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        return client

    def _connect_properties(self) -> Properties | None:
        """Session kept for a short while: without it a delayed will would be sent at once.

        No packet ids are kept across connections. For QoS 1 the receiver holds no state about them
        (MQTT 5, 4.3.2), so a resumed session costs nothing and queues commands over a short gap.
        """
        if not self.v5:
            return None
        properties = _properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = self._session_expiry_s
        properties.ReceiveMaximum = RECEIVE_MAXIMUM
        properties.MaximumPacketSize = MAX_INCOMING_BYTES
        return properties

    def _publish_properties(self, expiry_s: int | None, content_type: str | None) -> Properties:
        key = (expiry_s, content_type)
        known = self._expiry_cache.get(key)  # a few dozen values; building one costs more than sending
        if known is None:
            known = self._expiry_cache[key] = _properties(PacketTypes.PUBLISH)
            known.PayloadFormatIndicator = 1  # UTF-8
            if expiry_s is not None:
                known.MessageExpiryInterval = expiry_s
            if content_type is not None:
                known.ContentType = content_type
        return known

    def _await_connack(self) -> None:
        deadline = time.monotonic() + self._settings.connect_timeout_s
        while self._connack is None and self._lost is None and time.monotonic() < deadline:
            self._turn(0.1, None)
        self._client.on_log = None  # only the words of a failed handshake are of use
        if self._connack == 0 and self._lost is None:
            return
        if self._connack:
            raise BrokerError(explain_connack(self._place, self._connack, self._settings.protocol))
        words = " ".join(self._log)
        if self._lost is None:
            raise BrokerError(f"the broker {self._place} does not answer: check that this port speaks MQTT over TLS")
        raise BrokerError(explain_tls(self._place, OSError(words or "the broker closed the connection")))

    def _turn(self, timeout_s: float, wake: socket.socket | None) -> None:
        """One round of the MQTT library's external loop (read, write, keep-alive)."""
        sock = self._client.socket()
        if sock is None or sock.fileno() < 0:
            self._note_loss(CONNECTION_LOST)
            return
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0  # decrypted bytes that select cannot see
        readers = [sock] if wake is None else [sock, wake]
        writers = [sock] if self._client.want_write() else []
        readable, writable, _ = select.select(readers, writers, [], 0 if pending else max(timeout_s, 0))
        if pending or sock in readable:
            self._guard(self._client.loop_read)
        if sock in writable:
            self._guard(self._client.loop_write)
        self._guard(self._client.loop_misc)

    def _guard(self, step: Callable[[], MQTTErrorCode]) -> None:
        """Run one step of the library; whatever foreign bytes make it raise ends this connection only."""
        try:
            code = step()
        except Exception as error:  # noqa: BLE001  # the library parses the peer's bytes
            self._log.append(printable(f"{type(error).__name__}: {error}"))
            self._note_loss(CONNECTION_LOST)
            self.abandon()
            return
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._note_loss(KEEPALIVE_TIMEOUT if code == MQTTErrorCode.MQTT_ERR_KEEPALIVE else CONNECTION_LOST)

    def _note_loss(self, reason: int, why: str = "") -> None:
        if self._lost is None:
            self._lost = reason
            wrapped = None if self._context is None else self._context.wrapped
            self._why = why or (wrapped.refused if isinstance(wrapped, BoundedSocket) else "")

    def _on_connect(
        self, _client: object, _userdata: object, _flags: object, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._connack = reason.value
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self.receive_maximum = getattr(properties, "ReceiveMaximum", None)

    def _on_disconnect(
        self, _client: object, _userdata: object, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._note_loss(reason.value)
        else:
            self._note_loss(KEEPALIVE_TIMEOUT if reason.value == KEEPALIVE_TIMEOUT else CONNECTION_LOST)

    def _on_publish(
        self, _client: object, _userdata: object, mid: int, reason: ReasonCode, _properties: object
    ) -> None:
        self._acks.append(Ack(mid, reason.value))

    def _on_subscribe(
        self, _client: object, _userdata: object, mid: int, reasons: list[ReasonCode], _properties: object
    ) -> None:
        topic = self._asked.pop(mid, None)
        if topic is not None and any(reason.value >= 0x80 for reason in reasons):
            told = f"the broker {self._place} refuses the subscription to {topic}: add it to its ACL"
            self._refused[topic] = told

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        mid = message.mid if message.qos else 0
        self._waiting_bytes += len(message.topic) + len(message.payload) + MESSAGE_BYTES
        if self._waiting_bytes > MAX_WAITING_BYTES:  # only a broker that keeps to no limit sends so much in one turn
            self._note_loss(CONNECTION_LOST, "the broker sends more messages at once than it may")
            self.abandon()
            return
        self._messages.append(Incoming(message.topic, bytes(message.payload), message.retain, mid))

    def _on_log(self, _client: object, _userdata: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._log.append(text)


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # the library leaves its constructor untyped
