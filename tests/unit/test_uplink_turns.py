# SPDX-License-Identifier: Apache-2.0
"""What an uplink does turn by turn, on a simulated clock and a link that says what the test wants."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.errors import BrokerError
from agent.mqtt.credentials import Credentials
from agent.mqtt.records import Ack, BrokerSettings, Incoming, Polled, Will
from agent.protocol.topics import Topics
from agent.uplink.discovery import Discovery
from agent.uplink.mailbox import Mailbox
from agent.uplink.session import (
    BIRTH_SPREAD_S,
    OFFLINE,
    ONLINE,
    RECONNECT_S,
    RESPONSE_EXPIRY_S,
    SAY_AGAIN_S,
    STABLE_S,
    Uplink,
    UplinkSettings,
)
from tests.simulators.signing_unit import SigningUnit

TOPICS = Topics("hq", "door-3")
INTERVAL_S = 30
POLL_S = 0.01  # what a look at the wire takes


class Wire:
    """A broker's side: ``sent`` are (topic, payload, options); each poll gives what waits in ``coming``."""

    receive_maximum: int | None = None

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self.sent: list[tuple[str, bytes, dict[str, Any]]] = []
        self.coming: list[Incoming] = []
        self.refuses = False
        self.silent = False
        self.cut = False
        self.opened: list[int] = []  # when, ns
        self.will: Will | None = None
        self._answers: list[Ack] = []

    def connect(self, *_: object, will: Will, **__: object) -> Wire:
        self.will = will
        return self

    def open(self) -> None:
        self.opened.append(self._clock.monotonic_ns())
        if self.refuses:
            raise BrokerError("nobody is there")

    def subscribe(self, *filters: str) -> None:
        return None

    def publish(self, topic: str, payload: bytes, **options: Any) -> int:
        self.sent.append((topic, payload, options))
        if not self.silent:
            self._answers.append(Ack(len(self.sent), 0))
        return len(self.sent)

    def fits(self, topic: str, payload: bytes) -> bool:
        return True

    def poll(self, timeout_s: float, wake: socket.socket | None = None) -> Polled:
        if self.cut:
            raise BrokerError("cut")
        answers, self._answers = self._answers, []
        messages, self.coming = self.coming, []
        self._clock.advance(POLL_S)
        return Polled(acks=answers, messages=messages)

    def close(self) -> None:
        return None

    def abandon(self) -> None:
        return None

    def said(self, topic: str) -> list[dict[str, Any]]:
        return [options for at, _, options in self.sent if at == topic]


class Station:
    """A unit's uplink and the wire."""

    def __init__(self, folder: Path) -> None:
        self.clock = SimulatedClock()
        self.wire = Wire(self.clock)
        self.unit = SigningUnit(folder / "outbox.db", "door-3", self.clock)
        self.requests: list[str] = []
        files = Credentials.in_folder(folder)
        self.uplink = Uplink(
            UplinkSettings(BrokerSettings("broker", files), site="hq", unit="door-3", health_interval_s=INTERVAL_S),
            outbox=self.unit.outbox,
            mailbox=Mailbox(),
            clock=self.clock,
            random=lambda n: b"\x80" + bytes(n - 1),
            info=lambda: b"{}",
            on_request=lambda verb, _: self.requests.append(verb) or b"answer",
            on_notice=lambda _: None,
            health=lambda: b"{}",
            discovery=Discovery(topic="homeassistant/x", payload=b"{}", birth_topic="homeassistant/status"),
            connect=self.wire.connect,
        )

    def turn(self, count: int = 1, *, seconds: float = 0.0) -> None:
        for _ in range(count):
            self.uplink.turn()
            self.clock.advance(seconds)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.uplink.stop()


def request(*, retained: bool) -> Incoming:
    return Incoming(TOPICS.requests.replace("#", "selftest"), b"command", retained)


def test_a_command_that_the_broker_kept_is_no_command(station: Station) -> None:
    station.turn(2)
    station.wire.coming = [request(retained=True)]
    station.turn(2)
    assert station.requests == []
    station.wire.coming = [request(retained=False)]
    station.turn(2)
    assert station.requests == ["selftest"]
    (answer,) = station.wire.said(TOPICS.response("selftest"))
    assert answer["expiry_s"] == RESPONSE_EXPIRY_S


def test_a_birth_that_the_broker_kept_is_no_birth(station: Station) -> None:
    station.turn(3)
    assert len(station.wire.said("homeassistant/x")) == 1
    for retained, count in ((True, 1), (False, 2)):
        station.wire.coming = [Incoming("homeassistant/status", ONLINE, retained)]
        station.turn(3, seconds=BIRTH_SPREAD_S)
        assert len(station.wire.said("homeassistant/x")) == count


def test_what_is_retained_is_said_again_because_a_broker_may_retain_nothing(station: Station) -> None:
    """A cluster keeps it at the one node where it was said, or nowhere: whoever listens later hears it all the same."""
    retained = (TOPICS.availability, TOPICS.info, "homeassistant/x")
    station.turn(3)
    assert [len(station.wire.said(topic)) for topic in retained] == [1, 1, 1]
    station.turn(SAY_AGAIN_S + 5, seconds=1)
    assert [len(station.wire.said(topic)) for topic in retained] == [2, 2, 2]
    assert all(options["retain"] for topic in retained for options in station.wire.said(topic))
    station.wire.coming = [Incoming("homeassistant/status", ONLINE, retained=False)]
    station.turn(3, seconds=BIRTH_SPREAD_S)
    assert [len(station.wire.said(topic)) for topic in retained] == [3, 2, 3], (
        "Home Assistant was born and knows nothing"
    )


def test_availability_is_retained_and_the_will_takes_it_back(station: Station) -> None:
    station.turn(2)
    assert station.wire.said(TOPICS.availability) == [{"retain": True, "expiry_s": None}]
    assert station.wire.will is not None
    assert (station.wire.will.topic, station.wire.will.payload) == (TOPICS.availability, OFFLINE)


def test_health_comes_at_its_interval_and_does_not_outlive_the_next_but_one(station: Station) -> None:
    station.turn(2)
    station.turn(4 * INTERVAL_S, seconds=1 - POLL_S)
    told = station.wire.said(TOPICS.health)
    assert len(told) in {4, 5}
    assert {options["expiry_s"] for options in told} == {2 * INTERVAL_S}


def test_an_event_leaves_the_outbox_by_the_brokers_answer_alone(station: Station) -> None:
    station.turn(2)
    station.wire.silent = True
    station.unit.say()
    station.turn(3)
    assert station.wire.said(TOPICS.event("match")), "it was sent"
    assert station.unit.outbox.depth() == 1, "and stays until it is acknowledged"


def test_waits_grow_while_nobody_is_there_and_shrink_only_after_a_session_that_lasted(station: Station) -> None:
    def attempts(count: int) -> list[float]:
        """Seconds between the next attempts to connect."""
        opened = station.wire.opened
        until = len(opened) + count
        while len(opened) < until:
            station.clock.advance(next(station.uplink._turns))
        return [(later - earlier) / 1e9 for earlier, later in pairwise(opened[-count - 1 :])]

    station.wire.refuses = True
    waits = attempts(12)
    assert RECONNECT_S.least_s <= waits[0] <= RECONNECT_S.first_s
    assert RECONNECT_S.most_s / 3 < max(waits) <= RECONNECT_S.most_s

    def after_a_session(seconds: float) -> float:
        """The wait after a session that lasted so long and was then cut."""
        station.wire.refuses = False
        attempts(1)
        station.turn(round(seconds), seconds=1)
        station.wire.refuses = station.wire.cut = True
        (wait,) = attempts(1)
        station.wire.cut = False
        return wait - seconds

    assert after_a_session(2) > RECONNECT_S.most_s / 3, "a broker that hangs up at once is not well"
    assert after_a_session(STABLE_S + 5) <= RECONNECT_S.first_s + 1, "one that served us is"
