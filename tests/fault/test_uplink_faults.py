# SPDX-License-Identifier: Apache-2.0
"""Outages, liars and half-dead links between a unit and a real broker: nothing is lost, doubled or out of order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.errors import VerificationError
from agent.mqtt.records import Incoming
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.broker import Listener, RealBroker, connect, wait_until
from tests.simulators.pki import Authority
from tests.simulators.signing_unit import presence_draft, unit_draft, verifier_of
from tests.simulators.unit_on_broker import UnitOnBroker
from tools.lib.rig.proxy import FaultyProxy

pytestmark = pytest.mark.broker

BASE = "postern/hq/door-1"
TURNS = 5


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RealBroker]:
    broker = RealBroker(tmp_path, Authority(tmp_path / "pki"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def proxy(broker: RealBroker) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(broker.port)
    yield proxy
    proxy.close()


def make_unit(folder: Path, broker: RealBroker, proxy: FaultyProxy | None = None, **changes: object) -> UnitOnBroker:
    folder.mkdir(exist_ok=True)
    settings = broker.settings(broker.authority.issue("door-1"), **changes)
    return UnitOnBroker(folder, replace(settings, port=proxy.port) if proxy else settings)


def audit(broker: RealBroker) -> Listener:
    return connect(
        broker, broker.authority.issue("auditor"), "auditor", "postern/hq/+/event/+", "postern/hq/+/backlog/+"
    )


def keep_busy(unit: UnitOnBroker, auditor: Listener) -> None:
    """Let the uplink take as many turns as it takes to deliver what may be delivered, one event after the other."""
    for _ in range(TURNS):
        (seq,) = unit.say(1, unit_draft(unit.clock))
        auditor.pump(partial(heard, auditor, seq))


def heard(auditor: Listener, seq: int) -> bool:
    return seq in numbers(auditor.messages)


def numbers(messages: list[Incoming]) -> list[int]:
    return [json.loads(message.payload)["data"]["seq"] for message in messages]


def accept(unit: UnitOnBroker, messages: list[Incoming]) -> list[VerifiedEvent]:
    """What a verifying subscriber takes; a duplicate is what QoS 1 allows, anything else fails the test."""
    verifier, taken, refused = verifier_of(unit.unit), [], []
    for message in messages:
        try:
            taken.append(verifier.check(message.topic, message.payload, unit.clock.now()))
        except VerificationError as error:
            refused.append(error.reason)
    assert set(refused) <= {"duplicate"}
    return taken


def test_events_of_an_outage_arrive_once_and_in_order_with_late_ones_on_the_backlog(
    tmp_path: Path, broker: RealBroker
) -> None:
    unit = make_unit(tmp_path, broker)
    unit.start()
    unit.say(3)
    wait_until(lambda: unit.outbox.depth() == 0)
    broker.kill()
    unit.say(5)
    wait_until(lambda: "disconnected" in unit.kinds())
    unit.clock.skipped_s = 61  # the next ones are still live when the broker is back
    unit.say(4)
    wait_until(lambda: "unreachable" in unit.kinds())
    broker.start()
    auditor = audit(broker)
    auditor.pump(lambda: len(set(numbers(auditor.messages))) >= 9)
    taken = accept(unit, auditor.messages)
    assert [event.event.data.seq for event in taken] == list(range(4, 13))
    assert [event.backlog for event in taken] == [True] * 5 + [False] * 4
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.uplink.stop()


def test_kill_of_the_broker_in_the_middle_of_a_burst_loses_nothing(tmp_path: Path, broker: RealBroker) -> None:
    unit = make_unit(tmp_path, broker)
    unit.start()
    unit.say(55)
    broker.kill()
    unit.say(5)
    waiting = [row.seq for row in unit.outbox.pending(100)]
    broker.start()
    auditor = audit(broker)
    auditor.pump(lambda: 60 in numbers(auditor.messages))
    seqs = [event.event.data.seq for event in accept(unit, auditor.messages)]
    assert seqs == list(range(seqs[0], 61))
    assert seqs[0] - waiting[0] <= 16  # what the broker took before it died is gone with it
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.uplink.stop()


def test_a_link_that_is_cut_again_and_again_delivers_all_in_order(
    tmp_path: Path, broker: RealBroker, proxy: FaultyProxy
) -> None:
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker, proxy)
    proxy.cut_after = 20_000  # TLS, greeting and about ten events
    unit.start()
    unit.say(60)
    auditor.pump(lambda: len(set(numbers(auditor.messages))) == 60, 15)
    taken = accept(unit, auditor.messages)
    assert [event.event.data.seq for event in taken] == list(range(1, 61))
    assert proxy.accepted > 2
    proxy.cut_after = None
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.uplink.stop()


def test_lost_acknowledgements_resend_the_same_bytes(tmp_path: Path, broker: RealBroker, proxy: FaultyProxy) -> None:
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker, proxy)
    unit.start()
    proxy.deaf = True
    unit.say(3)
    auditor.pump(lambda: len(auditor.messages) == 3)
    proxy.cut()
    proxy.deaf = False
    auditor.pump(lambda: len(auditor.messages) == 6)
    assert [m.payload for m in auditor.messages[:3]] == [m.payload for m in auditor.messages[3:]]
    wait_until(lambda: unit.outbox.depth() == 0)
    assert unit.uplink.stop()


def test_half_open_link_is_noticed_by_keep_alive(tmp_path: Path, broker: RealBroker, proxy: FaultyProxy) -> None:
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker, proxy, keepalive_s=1)
    unit.start()
    proxy.silent = True
    unit.say()
    wait_until(lambda: unit.told("stopped answering") or "disconnected" in unit.kinds())
    proxy.silent = False
    auditor.pump(lambda: auditor.messages)
    assert unit.uplink.stop()


def test_slow_link_keeps_order(tmp_path: Path, broker: RealBroker, proxy: FaultyProxy) -> None:
    auditor = audit(broker)
    proxy.delay_s = 0.02
    unit = make_unit(tmp_path, broker, proxy)
    unit.start()
    seqs = unit.say(40)
    auditor.pump(lambda: len(auditor.messages) >= 40)
    assert numbers(auditor.messages) == seqs
    assert unit.uplink.stop()


def test_refused_connections_are_not_retried_hotly(tmp_path: Path, broker: RealBroker, proxy: FaultyProxy) -> None:
    proxy.refuse = True
    unit = make_unit(tmp_path, broker, proxy)
    unit.start(connected=False)
    wait_until(lambda: proxy.accepted)
    began = time.monotonic()
    wait_until(lambda: proxy.accepted >= 6)
    assert time.monotonic() - began > 4 * 0.05, "waits of 0.05 to 0.2 s in this test, 1 to 60 s in the product"
    proxy.refuse = False
    wait_until(lambda: unit.connected)
    assert unit.uplink.stop()


def test_refused_leaf_waits_raises_an_alarm_and_flows_once_allowed(tmp_path: Path, broker: RealBroker) -> None:
    rules = broker.acl.read_text()
    narrow = rules.replace("event/+\n", "event/unit\n", 1).replace("backlog/+\n", "backlog/unit\n", 1)
    broker.acl.write_text(narrow)
    broker.reload()
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker)
    unit.start()
    unit.say(1, unit_draft(unit.clock))
    unit.say(30)
    unit.say(2, unit_draft(unit.clock))
    auditor.pump(lambda: len(auditor.messages) == 3)
    assert numbers(auditor.messages) == [1, 32, 33]
    assert unit.told("event/match (not_authorised): allow the topic in the broker's ACL")
    wait_until(lambda: unit.told("backlog/match (not_authorised)"))  # where they went once they were overtaken
    keep_busy(unit, auditor)
    refused = broker.log.read_text().count("Denied PUBLISH")
    assert refused <= 32  # a window for each of the two leaves
    keep_busy(unit, auditor)
    assert broker.log.read_text().count("Denied PUBLISH") == refused  # and then there is peace
    wait_until(lambda: unit.outbox.depth() == 30)
    broker.acl.write_text(rules)
    broker.reload()
    unit.clock.skipped_s = 20
    unit.mailbox.wake()
    auditor.pump(lambda: len(auditor.messages) == 33 + 2 * TURNS)
    taken = accept(unit, auditor.messages)
    assert [event.event.data.seq for event in taken] == [1, *range(32, 34 + 2 * TURNS), *range(2, 32)]
    assert unit.uplink.stop()


def test_event_larger_than_the_broker_takes_is_parked_without_being_sent(tmp_path: Path, broker: RealBroker) -> None:
    broker.stop()
    broker.write_config(max_packet_size="850")
    broker.start()
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker)
    unit.start()
    unit.say()
    unit.say(1, unit_draft(unit.clock))
    auditor.pump(lambda: auditor.messages)
    assert auditor.topics() == [f"{BASE}/event/unit"]
    assert unit.outbox.parked_reasons() == {"packet_too_large": 1}
    assert unit.told("raise max_packet_size")
    assert unit.kinds().count("disconnected") == 0
    assert unit.uplink.stop()


def test_event_at_which_the_broker_hangs_up_is_found_and_parked(tmp_path: Path, broker: RealBroker) -> None:
    """With MQTT 3.1.1 Mosquitto closes the connection on a packet that is too large, without a word."""
    broker.stop()
    broker.write_config(max_packet_size="850")
    broker.start()
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker, protocol="3.1.1")
    unit.say(2, unit_draft(unit.clock))
    unit.say()
    unit.say(2, unit_draft(unit.clock))
    unit.start(connected=False)
    auditor.pump(lambda: len(set(numbers(auditor.messages))) == 4)
    assert sorted(set(numbers(auditor.messages))) == [1, 2, 4, 5]
    wait_until(lambda: unit.outbox.parked_reasons() == {"connection_closed": 1})
    assert unit.told("event/match (connection_closed)")
    hung_up = broker.log.read_text().count("New client connected")
    keep_busy(unit, auditor)
    assert broker.log.read_text().count("New client connected") == hung_up  # and then there is peace
    assert unit.uplink.stop()


def test_will_says_offline_when_the_unit_is_gone_and_not_before(
    tmp_path: Path, broker: RealBroker, proxy: FaultyProxy
) -> None:
    watcher = connect(broker, broker.authority.issue("auditor"), "auditor", f"{BASE}/availability")
    unit = make_unit(tmp_path, broker, proxy, will_delay_s=1)
    unit.start()
    watcher.pump(lambda: watcher.messages)
    proxy.cut()  # a short loss: the unit is back before the delay ends
    watcher.pump(lambda: len(watcher.messages) == 2)
    proxy.refuse = True
    proxy.cut()
    watcher.pump(lambda: len(watcher.messages) == 3)
    assert [message.payload for message in watcher.messages] == [b"online", b"online", b"offline"]
    unit.uplink.stop()


def test_full_disk_at_the_outbox_does_not_end_the_uplink(tmp_path: Path, broker: RealBroker) -> None:
    unit = make_unit(tmp_path, broker)
    unit.outbox.close()  # every call of the uplink now fails as on a broken disk
    unit.start(connected=False)
    wait_until(lambda: "storage" in unit.kinds() or "fault" in unit.kinds())
    unit.outbox = unit.unit.open()
    assert unit.uplink.stop()


def test_presence_and_match_stay_in_one_order(tmp_path: Path, broker: RealBroker) -> None:
    auditor = audit(broker)
    unit = make_unit(tmp_path, broker)
    for number in range(20):
        unit.say(1, presence_draft(unit.clock) if number % 2 else None)
    unit.start()
    auditor.pump(lambda: len(auditor.messages) == 20)
    assert numbers(auditor.messages) == list(range(1, 21))
    assert unit.uplink.stop()
