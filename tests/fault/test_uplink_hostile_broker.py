# SPDX-License-Identifier: Apache-2.0
"""A broker that misbehaves: the uplink slows down, tells what is wrong, keeps every event, and never dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from agent.clock import SystemClock
from agent.errors import MAX_PEER_TEXT, BrokerError
from agent.mqtt.connection import MAX_WAITING, Connection
from agent.mqtt.records import BrokerSettings
from tests.simulators.broker import wait_until
from tests.simulators.pki import Authority
from tests.simulators.scripted_broker import HANG_UP, ScriptedBroker, connack, disconnect, puback, publish
from tests.simulators.signing_unit import unit_draft
from tests.simulators.unit_on_broker import SkippingClock, UnitOnBroker

Nonsense = tuple[ScriptedBroker, BrokerSettings]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[ScriptedBroker]:
    broker = ScriptedBroker(Authority(tmp_path / "pki"))
    yield broker
    broker.close()


@pytest.fixture
def unit(broker: ScriptedBroker, tmp_path: Path) -> Iterator[UnitOnBroker]:
    unit = UnitOnBroker(tmp_path, broker.settings(broker._authority.issue("door-1")))
    yield unit
    unit.uplink.stop()


def rows_only(answer: Callable[[int], bytes | None]) -> Callable[[str, int], bytes | None]:
    return lambda topic, mid: answer(mid) if "/event/" in topic or "/backlog/" in topic else puback(mid)


def test_quota_exceeded_pauses_and_delivers_later(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    broker.on_publish = rows_only(lambda mid: puback(mid, 0x97))
    unit.start()
    unit.say(5)
    wait_until(lambda: unit.told("takes no events at the moment (quota_exceeded)"))
    time.sleep(0.5)  # what was on its way arrives
    sent = len(broker.published)
    time.sleep(0.2)
    assert len(broker.published) == sent
    broker.on_publish = lambda _, mid: puback(mid)
    unit.clock.skipped_s = 5
    unit.mailbox.wake()
    wait_until(lambda: unit.outbox.depth() == 0)


def test_broker_that_hangs_up_on_one_leaf_does_not_stop_the_others(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    """As RabbitMQ does when its permissions forget a topic."""
    broker.on_publish = lambda topic, mid: HANG_UP if topic.endswith("/match") else puback(mid)
    for number in range(6):
        unit.say(1, unit_draft(unit.clock) if number % 2 else None)
    unit.start(connected=False)
    wait_until(lambda: all(row.kind == "match" for row in unit.outbox.pending(10)), 10)
    assert unit.outbox.depth() == 3
    wait_until(lambda: unit.told("(connection_closed): look at the broker's log"))
    connections = broker.connections
    time.sleep(0.5)
    assert broker.connections <= connections + 1  # the held leaf is left in peace


def test_silent_broker_keeps_the_window_small(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    broker.on_publish = rows_only(lambda _: None)
    unit.start()
    unit.say(40)
    wait_until(lambda: any("/event/" in topic for topic in broker.published))
    time.sleep(0.2)
    assert sum("/event/" in topic for topic in broker.published) <= 16
    assert unit.outbox.depth() == 40


def test_window_that_the_broker_asks_for_is_kept(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    broker.greeting = bytes([0x20, 6, 0, 0, 3, 0x21, 0, 9])  # receive maximum 9
    broker.on_publish = rows_only(lambda _: None)
    unit.start()
    unit.say(20)
    wait_until(lambda: any("/event/" in topic for topic in broker.published))
    time.sleep(0.2)
    assert sum("/event/" in topic for topic in broker.published) <= 5


def test_session_taken_over_is_told_and_slows_down(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    broker.on_publish = rows_only(lambda _: disconnect(0x8E))
    unit.start()
    unit.say()
    wait_until(lambda: unit.told("another unit or program uses this certificate"))
    assert unit.outbox.parked_reasons() == {}


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (0x84, "set broker.protocol to '3.1.1'"),
        (0x86, "use_identity_as_username"),
        (0x87, "does not authorise this client"),
        (0x89, "is busy"),
        (0x9F, "too many connections"),
        (0x80, "refuses the session (reason 0x80)"),
    ],
)
def test_refused_session_says_what_to_do(broker: ScriptedBroker, unit: UnitOnBroker, reason: int, words: str) -> None:
    broker.greeting = connack(reason)
    unit.start(connected=False)
    wait_until(lambda: unit.told(words))


def test_broker_that_never_greets_is_given_up(broker: ScriptedBroker) -> None:
    broker.greeting = None
    settings = broker.settings(broker._authority.issue("door-1"), connect_timeout_s=0.3)
    with pytest.raises(BrokerError, match="does not answer"):
        Connection(settings, client_id="door-1", clock=SkippingClock()).open()


def test_text_of_the_broker_is_cleaned_and_bounded_in_notices(broker: ScriptedBroker, unit: UnitOnBroker) -> None:
    words = ("\x1b[31m" + "x" * 4000).encode()
    properties = b"\x1f" + len(words).to_bytes(2, "big") + words  # reason string
    body = b"\x87" + bytes([0x80 | len(properties) & 0x7F, len(properties) >> 7]) + properties
    packet = b"\xe0" + bytes([0x80 | len(body) & 0x7F, len(body) >> 7]) + body
    broker.on_publish = rows_only(lambda _: packet)
    unit.start()
    unit.say()
    wait_until(lambda: "disconnected" in unit.kinds())
    for notice in unit.notices:
        assert notice.message.isprintable()
        assert len(notice.message) < 2 * MAX_PEER_TEXT


@pytest.fixture(scope="module")
def nonsense(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nonsense]:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    broker = ScriptedBroker(authority)
    yield broker, broker.settings(authority.issue("door-1"), connect_timeout_s=1.0)
    broker.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    junk=st.one_of(
        st.binary(max_size=64),
        st.builds(
            lambda kind, flags, body: bytes([kind << 4 | flags, len(body)]) + body,
            st.integers(0, 15),
            st.integers(0, 15),
            st.binary(max_size=40),
        ),
    )
)
def test_nonsense_of_the_broker_ends_the_connection_at_most(nonsense: Nonsense, junk: bytes) -> None:
    broker, broker_settings = nonsense
    broker.after_greeting = junk
    connection = Connection(broker_settings, client_id="door-1", clock=SkippingClock())
    try:
        connection.open()
        connection.publish("t", b"x")
        for _ in range(4):
            connection.poll(0.005)
    except BrokerError:
        pass
    finally:
        connection.abandon()


RESUMED = 1000  # messages; Mosquitto before 2.0.13 sent up to 32 times our receive maximum


@pytest.fixture
def subscriber(broker: ScriptedBroker) -> Iterator[Connection]:
    broker.after_greeting = b"".join(
        publish("postern/hq/door-1/event/match", mid, b"x") for mid in range(1, RESUMED + 1)
    )
    settings = broker.settings(broker._authority.issue("auditor"))
    connection = Connection(settings, client_id="auditor", clock=SystemClock(), manual_ack=True)
    connection.open()
    yield connection
    connection.abandon()


@pytest.mark.parametrize("granted", [1, 0x87])
def test_subscriber_takes_what_stands_before_the_answer_to_its_subscription(
    broker: ScriptedBroker, subscriber: Connection, granted: int
) -> None:
    """A session that is resumed with thousands in flight was left each time before anything of it was taken."""
    broker.granted = granted
    subscriber.subscribe("postern/hq/+/event/+")
    taken, refused = [], []
    deadline = time.monotonic() + 10
    while (len(taken) < RESUMED or len(refused) < (granted > 2)) and time.monotonic() < deadline:
        polled = subscriber.poll(0.1)
        assert len(polled.messages) <= MAX_WAITING + 1  # what waited, and the next
        taken += [message.mid for message in polled.messages]
        refused += polled.refused
        subscriber.acknowledge(polled.messages)
    assert taken == list(range(1, RESUMED + 1))
    assert refused == (["postern/hq/+/event/+"] if granted > 2 else [])


def test_connection_that_ends_while_it_subscribes_is_no_refusal_by_a_list(broker: ScriptedBroker) -> None:
    broker.after_greeting = disconnect(0x8B)
    settings = broker.settings(broker._authority.issue("auditor"))
    connection = Connection(settings, client_id="auditor", clock=SystemClock())
    connection.open()
    with pytest.raises(BrokerError, match="is shutting down"):
        connection.subscribe("postern/hq/+/event/+")
    connection.abandon()
