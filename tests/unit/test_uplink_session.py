# SPDX-License-Identifier: Apache-2.0
"""The uplink's promises, against a real broker with the deployed configuration."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.clock import SystemClock
from agent.errors import BrokerError
from agent.mqtt.connection import Connection
from agent.protocol.topics import Topics
from agent.uplink.discovery import make_discovery
from tests.simulators.broker import PATIENCE_S, Listener, RealBroker, connect, wait_until
from tests.simulators.signing_unit import match_draft, presence_draft, unit_draft
from tests.simulators.unit_on_broker import UnitOnBroker

pytestmark = pytest.mark.broker

BASE = "postern/hq/door-1"


@pytest.fixture
def unit(broker: RealBroker, tmp_path: Path) -> Iterator[UnitOnBroker]:
    unit = UnitOnBroker(tmp_path, broker.settings(broker.authority.issue("door-1")), health=lambda: b'{"health":1}')
    yield unit
    unit.uplink.stop()


def listen(broker: RealBroker, *filters: str, name: str = "auditor") -> Listener:
    return connect(broker, broker.authority.issue(name), name, *filters)


def test_event_arrives_live_and_leaves_the_outbox_on_puback(broker: RealBroker, unit: UnitOnBroker) -> None:
    auditor = listen(broker, "postern/hq/+/event/+")
    unit.start()
    unit.say()
    auditor.pump(lambda: auditor.messages)
    assert auditor.messages[0].topic == f"{BASE}/event/match"
    assert json.loads(auditor.messages[0].payload)["source"] == "/postern/hq/door-1"
    assert not auditor.messages[0].retained
    wait_until(lambda: unit.outbox.depth() == 0)


def test_each_kind_has_its_leaf(broker: RealBroker, unit: UnitOnBroker) -> None:
    auditor = listen(broker, "postern/hq/+/event/+")
    unit.start()
    for draft in (None, presence_draft(unit.clock), unit_draft(unit.clock)):
        unit.say(draft=draft)
    auditor.pump(lambda: len(auditor.messages) == 3)
    assert auditor.topics() == [f"{BASE}/event/match", f"{BASE}/event/presence", f"{BASE}/event/unit"]


def test_event_older_than_the_live_window_goes_to_the_backlog(broker: RealBroker, unit: UnitOnBroker) -> None:
    auditor = listen(broker, "postern/hq/+/event/+", "postern/hq/+/backlog/+")
    unit.say()
    unit.clock.skipped_s = 61
    unit.say()
    unit.start()
    auditor.pump(lambda: len(auditor.messages) == 2)
    assert auditor.topics() == [f"{BASE}/backlog/match", f"{BASE}/event/match"]


def test_event_of_an_earlier_run_is_never_live(broker: RealBroker, unit: UnitOnBroker) -> None:
    unit.say()
    unit.unit.restart()
    again = UnitOnBroker.__new__(UnitOnBroker)
    again.__dict__.update(unit.__dict__)
    again.outbox = unit.unit.outbox
    again.uplink = again._make()
    auditor = listen(broker, "postern/hq/+/event/+", "postern/hq/+/backlog/+")
    again.start()
    auditor.pump(lambda: auditor.messages)
    assert auditor.topics() == [f"{BASE}/backlog/match"]
    again.uplink.stop()


def test_live_event_expires_at_the_broker(broker: RealBroker, unit: UnitOnBroker) -> None:
    """A subscriber that comes back later must not find a live event waiting."""
    auditor = listen(broker, "postern/hq/+/event/+", "postern/hq/+/backlog/+")
    auditor.connection.abandon()  # its session stays at the broker for a minute
    unit.start()
    unit.say()
    wait_until(lambda: unit.outbox.depth() == 0)  # row 1 left with a minute
    unit.clock.skipped_s = 58.5
    unit.say()  # row 2 is fresh
    wait_until(lambda: unit.outbox.depth() == 0)
    unit.outbox.append(match_draft(unit.clock))
    unit.clock.skipped_s += 58.5  # row 3 has 1.5 s left, rounded up
    unit.mailbox.wake()
    wait_until(lambda: unit.outbox.depth() == 0)
    time.sleep(2.1)
    auditor = connect(broker, broker.authority.issue("auditor"), "auditor")
    auditor.pump(lambda: len(auditor.messages) == 2)
    auditor.connection.poll(0.1)
    assert len(auditor.messages) == 2


def test_order_of_a_burst_is_kept_and_nothing_is_sent_twice(broker: RealBroker, unit: UnitOnBroker) -> None:
    auditor = listen(broker, "postern/hq/+/event/+")
    unit.start()
    seqs = unit.say(200)
    auditor.pump(lambda: len(auditor.messages) >= 200)
    assert [json.loads(m.payload)["data"]["seq"] for m in auditor.messages] == seqs


def test_availability_info_and_health_after_connecting(broker: RealBroker, unit: UnitOnBroker) -> None:
    auditor = listen(broker, f"{BASE}/availability", f"{BASE}/info", f"{BASE}/health")
    unit.start()
    auditor.pump(lambda: len(auditor.messages) == 3)
    assert {m.topic.rpartition("/")[2]: m.payload for m in auditor.messages} == {
        "availability": b"online",
        "info": b'{"info":1}',
        "health": b'{"health":1}',
    }


def retained(broker: RealBroker, topic: str) -> bytes | None:
    """What a client that subscribes now is told at once (3.1.1 always asks for retained messages)."""
    listener = connect(broker, broker.authority.issue("auditor"), "auditor", topic, protocol="3.1.1")
    listener.messages += listener.connection.poll(0.1).messages
    listener.connection.close()
    kept = [m.payload for m in listener.messages if m.retained]
    return kept[0] if kept else None


def test_what_is_retained_and_what_never_is(broker: RealBroker, unit: UnitOnBroker) -> None:
    unit.start()
    unit.say()
    wait_until(lambda: unit.outbox.depth() == 0)
    assert retained(broker, f"{BASE}/availability") == b"online"
    assert retained(broker, f"{BASE}/info") == b'{"info":1}'
    assert retained(broker, f"{BASE}/health") is None
    assert retained(broker, f"{BASE}/event/match") is None
    assert unit.uplink.stop()
    assert retained(broker, f"{BASE}/availability") == b"offline"


def payloads(listener: Listener) -> list[bytes]:
    return [message.payload for message in listener.messages]


def test_stop_delivers_what_is_there_and_says_offline_within_two_seconds(
    broker: RealBroker, unit: UnitOnBroker
) -> None:
    auditor = listen(broker, "postern/hq/+/event/+", f"{BASE}/availability")
    unit.start()
    unit.say(50)
    began = time.monotonic()
    assert unit.uplink.stop()
    assert time.monotonic() - began < 2
    auditor.pump(lambda: b"online" in payloads(auditor) and payloads(auditor)[-1] == b"offline")
    said = payloads(auditor)[payloads(auditor).index(b"online") :]  # before that, what a unit of this name left behind
    assert len([one for one in said if unit.outbox.boot.encode() in one]) == 50
    assert len(said) == 52  # online, events, offline
    assert unit.outbox.depth() == 0


def test_info_is_published_again_when_it_changed(broker: RealBroker, unit: UnitOnBroker) -> None:
    unit.start()
    auditor = listen(broker, f"{BASE}/info")
    unit.mailbox.info_changed()
    auditor.pump(lambda: auditor.messages)


def test_document_that_cannot_be_built_keeps_no_event_back(broker: RealBroker, tmp_path: Path) -> None:
    def fail() -> bytes:
        raise RuntimeError("no sensor")

    unit = UnitOnBroker(tmp_path, broker.settings(broker.authority.issue("door-1")), health=fail, info=fail)
    unit.start()
    unit.say()
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.told("the info document failed (RuntimeError: no sensor)")
    assert unit.kinds().count("disconnected") == 0
    assert unit.uplink.stop()


def test_request_is_answered_on_the_response_topic(broker: RealBroker, unit: UnitOnBroker) -> None:
    operator = listen(broker, f"{BASE}/response/#", name="operator")
    unit.start()
    operator.connection.publish(f"{BASE}/request/enrol/begin", b"please")
    operator.pump(lambda: operator.messages)
    assert unit.requests == [("enrol/begin", b"please")]
    assert operator.topics() == [f"{BASE}/response/enrol/begin"]
    assert operator.messages[0].payload == b"done"


def test_retained_request_is_ignored(broker: RealBroker, unit: UnitOnBroker) -> None:
    before = Connection(
        broker.settings(broker.authority.issue("door-1")),
        client_id="door-1",
        clock=SystemClock(),
        clean_start=True,
        session_expiry_s=0,
    )
    before.open()  # nothing waits for this unit from a test before
    before.close()
    operator = listen(broker, name="operator")
    operator.connection.publish(f"{BASE}/request/selftest", b"old", retain=True)
    operator.acks(1)
    unit.start()
    operator.connection.publish(f"{BASE}/request/health", b"new")
    wait_until(lambda: unit.requests)
    assert unit.requests == [("health", b"new")]
    operator.connection.publish(f"{BASE}/request/selftest", b"", retain=True)
    operator.connection.poll(0.1)


def test_discovery_is_retained_and_sent_again_when_home_assistant_is_born(broker: RealBroker, tmp_path: Path) -> None:
    discovery = make_discovery(
        Topics("hq", "door-1"), name="Door", model="Pi 4", version="1", presence=True, health_interval_s=60
    )
    unit = UnitOnBroker(
        tmp_path, broker.settings(broker.authority.issue("door-1")), discovery=discovery, random=lambda n: bytes(n)
    )
    home = listen(broker, "homeassistant/device/+/+/config", name="home-assistant")
    unit.start()
    home.pump(lambda: len(home.messages) == 1)
    assert home.messages[0].topic == "homeassistant/device/postern-hq/door-1/config"
    home.connection.publish("homeassistant/status", b"online")
    home.pump(lambda: len(home.messages) == 2)
    assert home.messages[0].payload == home.messages[1].payload
    assert unit.uplink.stop()


def test_appending_never_waits_for_the_network(broker: RealBroker, tmp_path: Path) -> None:
    """Nobody answers at the other end; the pipeline's thread must not notice."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = broker.settings(broker.authority.issue("door-1"))
        unit = UnitOnBroker(tmp_path, replace(settings, port=mute.getsockname()[1]))
        unit.start(connected=False)
        began = time.monotonic()
        unit.say(20)
        assert time.monotonic() - began < 4  # a busy machine; an attempt to connect takes longer
        assert unit.outbox.depth() == 20
        began = time.monotonic()
        assert not unit.uplink.stop(0.5)
        assert time.monotonic() - began < 4
    assert unit.uplink.stop(5)  # the attempt in progress ended by itself


def test_protocol_3_1_1_only_when_asked_for(broker: RealBroker, tmp_path: Path) -> None:
    settings = broker.settings(broker.authority.issue("door-1"), protocol="3.1.1")
    unit = UnitOnBroker(tmp_path, settings)
    auditor = listen(broker, "postern/hq/+/event/+")
    unit.start()
    unit.say()
    auditor.pump(lambda: auditor.messages)
    assert unit.uplink.stop()


def test_one_thread_alone(broker: RealBroker, unit: UnitOnBroker) -> None:
    before = threading.active_count()
    unit.start()
    assert threading.active_count() == before + 1


@pytest.mark.parametrize("end", ["abandon", "close"])
def test_ended_connection_is_freed_at_once_without_the_garbage_collector(broker: RealBroker, end: str) -> None:
    """Each holds a TLS context: what waits for the collector's rare full run makes a unit grow with each lost link."""
    refused = replace(broker.settings(broker.authority.issue("watcher")), port=1)
    gc.collect()
    gc.disable()
    try:
        ended = []
        for settings in (broker.settings(broker.authority.issue("watcher")), refused):
            connection = Connection(settings, client_id="watcher", clock=SystemClock())
            with contextlib.suppress(BrokerError):
                connection.open()
                connection.subscribe("postern/hq/+/event/+")
            getattr(connection, end)()
            ended.append(weakref.ref(connection))
            del connection
        assert [one() for one in ended] == [None, None]
    finally:
        gc.enable()


def test_the_broker_is_met_after_the_first_picture(unit: UnitOnBroker) -> None:
    unit.uplink.start(2 * PATIENCE_S)
    unit.uplink.proceed()
    wait_until(lambda: unit.connected)


def test_a_camera_that_shows_nothing_keeps_nobody_from_the_broker(unit: UnitOnBroker) -> None:
    unit.uplink.start(0.05)
    wait_until(lambda: unit.connected)


def test_a_stop_waits_for_no_first_picture(unit: UnitOnBroker) -> None:
    unit.uplink.start(2 * PATIENCE_S)
    assert unit.uplink.stop(PATIENCE_S)
    assert not unit.notices
