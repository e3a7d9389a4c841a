# SPDX-License-Identifier: Apache-2.0
"""A broker without sockets on the rig's clock: what a real one and the network before it do, at exact times.

``SimulatedLink`` is what the uplink takes for a ``Connection``. It checks the unit's certificate by the same function,
delivers and acknowledges after the link's delay, and fails as ``tools.lib.rig.proxy`` makes a real link fail.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from agent.clock import Clock
from agent.errors import BrokerError
from agent.mqtt.credentials import load_identity
from agent.mqtt.records import Ack, BrokerSettings, Incoming, Polled, Will
from agent.mqtt.refusals import CONNECTION_LOST, KEEPALIVE_TIMEOUT, ConnectionLostError

DELAY_S = 0.001  # one way on a local network
RECEIVE_MAXIMUM = 64  # as deploy/mosquitto has it
KEEPALIVES = 1.5  # of the interval: a silent link counts as dead then (MQTT 5, 3.1.2.10)
PATIENT_STEP_S = 0.01  # how the clock moves while a stopping uplink waits for answers


@dataclass(frozen=True, slots=True)
class Published:
    """One message as the broker took it."""

    topic: str
    payload: bytes
    retain: bool


class SimulatedBroker:
    """Takes messages and hands them to ``on_message``; the faults may be set at any time."""

    def __init__(self, clock: Clock, on_message: Callable[[Published], None]) -> None:
        self.clock = clock
        self.on_message = on_message
        self.delay_s = DELAY_S
        self.down = False  # also: refuses
        self.silent = False
        self.deaf = False
        self.patient = False  # waiting moves the clock: only while nobody else moves it
        self.commands: deque[Incoming] = deque()
        self._links: list[SimulatedLink] = []

    def connect(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        common_name: str | None,
        clock: Clock,
        will: Will | None,
        resumes: bool,
    ) -> SimulatedLink:
        """What ``World.connect`` takes; commands wait here whether somebody resumes or not."""
        del client_id, clock, resumes
        link = SimulatedLink(self, settings, common_name, will)
        self._links = [one for one in self._links if not one.lost]
        self._links.append(link)
        return link

    def cut(self) -> None:
        """Break every connection."""
        for link in self._links:
            link.lost = link.lost or CONNECTION_LOST

    def heal(self) -> None:
        """End every fault; a link that swallowed bytes is broken, as TLS is then."""
        if self.silent or self.deaf:
            self.cut()
        self.delay_s, self.down, self.silent, self.deaf = DELAY_S, False, False, False


class SimulatedLink:
    """One connection; implements ``agent.mqtt.link.Link``."""

    def __init__(self, broker: SimulatedBroker, settings: BrokerSettings, name: str | None, will: Will | None) -> None:
        self._broker, self._settings, self._name, self._will = broker, settings, name, will
        self._packets = 0
        self._underway: deque[tuple[int, int, Published]] = deque()  # due, packet id, message
        self._answers: deque[tuple[int, int]] = deque()  # due, packet id
        self._heard_ns = broker.clock.monotonic_ns()
        self._open = False
        self.receive_maximum: int | None = RECEIVE_MAXIMUM
        self.lost: int | None = None

    def open(self) -> None:
        load_identity(self._settings.credentials, self._broker.clock, common_name=self._name)
        if self._broker.down or self._broker.silent:
            self.lost = CONNECTION_LOST
            raise BrokerError("the simulated broker does not answer: the scenario says so")
        self._open = True
        self._heard_ns = self._broker.clock.monotonic_ns()

    def subscribe(self, *filters: str) -> None:
        """Commands are handed over whatever was subscribed to: the unit has one topic for them."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = None,
    ) -> int:
        del expiry_s, content_type
        self._packets += 1
        message = Published(topic, payload, retain)
        if not self._broker.silent:
            self._underway.append((self._later_ns(), self._packets, message))
        return self._packets

    def fits(self, topic: str, payload: bytes) -> bool:
        """The broker of the scenarios takes every event; what a small limit does is tested on a real one."""
        del topic, payload
        return True

    def poll(self, timeout_s: float, wake: socket.socket | None = None) -> Polled:
        del wake
        if self._broker.patient and timeout_s > 0:
            self._broker.clock.sleep(min(timeout_s, PATIENT_STEP_S))
        now_ns = self._broker.clock.monotonic_ns()
        if self._broker.down:
            self.lost = self.lost or CONNECTION_LOST
        if self.lost is None and not self._broker.silent:
            self._deliver(now_ns)
        if self._broker.silent and now_ns - self._heard_ns > KEEPALIVES * self._settings.keepalive_s * 1e9:
            self.lost = self.lost or KEEPALIVE_TIMEOUT
        if self.lost is not None:
            raise ConnectionLostError(self.lost, "simulated")
        polled = Polled()
        while self._answers and self._answers[0][0] <= now_ns:
            polled.acks.append(Ack(self._answers.popleft()[1], 0))
        while self._broker.commands and not self._broker.silent:
            polled.messages.append(self._broker.commands.popleft())
        return polled

    def close(self) -> None:
        """The broker takes what is on its way, then the connection ends without the will."""
        if self.lost is None and not self._broker.silent:
            self._deliver(self._later_ns())
        self._open = False
        self.lost = self.lost or CONNECTION_LOST

    def abandon(self) -> None:
        """The broker says the will."""
        if self._open and self._will is not None and not self._broker.down:
            self._broker.on_message(Published(self._will.topic, self._will.payload, retain=True))
        self._open = False
        self.lost = self.lost or CONNECTION_LOST

    def _deliver(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        while self._underway and self._underway[0][0] <= now_ns:
            _, packet, message = self._underway.popleft()
            self._broker.on_message(message)
            if not self._broker.deaf:
                self._answers.append((self._later_ns(), packet))

    def _later_ns(self) -> int:
        return self._broker.clock.monotonic_ns() + round(self._broker.delay_s * 1e9)
