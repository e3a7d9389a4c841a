# SPDX-License-Identifier: Apache-2.0
"""A subscriber acknowledges only what was handed over, and a list or a health document that is wrong ends nothing."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from agent.disk.files import write_atomic
from agent.errors import StorageError
from agent.subscribe.files import StateFile
from agent.subscribe.subscriber import Refusal, Subscriber
from agent.subscribe.verify import VerifiedEvent
from agent.uplink.health import HealthReporter
from tests.simulators.broker import connect, wait_until
from tests.simulators.signing_unit import trust_list
from tests.unit.test_uplink_subscribe import BASE, Site, take

pytestmark = pytest.mark.broker


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.unit.uplink.stop()
    site.broker.stop()


class CrashError(Exception):
    """The consumer's."""


def crash_over_next(subscriber: Subscriber, site: Site, said: int, *, taken: int) -> None:
    def consume() -> None:
        with subscriber as events:
            site.unit.start()
            site.unit.say(said)
            if taken:
                take(events, taken)
            for _ in events:
                raise CrashError

    with pytest.raises(CrashError):
        consume()


def test_consumer_that_crashes_gets_the_event_again_marked(site: Site) -> None:
    state = StateFile(site.folder / "seen.db")
    crash_over_next(site.subscriber(state=state, durable=True), site, 3, taken=1)
    with site.subscriber(state=state, durable=True) as events:
        outcomes = [o for o in take(events, 2) if isinstance(o, VerifiedEvent)]
    assert [o.event.data.seq for o in outcomes] == [2, 3]
    assert outcomes[0].repeat
    assert not outcomes[0].fresh


def test_consumer_of_batches_that_crashes_gets_the_batch_again_marked_and_nothing_before_it(site: Site) -> None:
    """Whoever asks for the next batch is done with all of the one before, and with no other."""
    state = StateFile(site.folder / "seen.db")
    first: list[int] = []
    again: list[VerifiedEvent] = []

    def numbers(batch: Sequence[object]) -> list[int]:
        return [one.event.data.seq for one in batch if isinstance(one, VerifiedEvent)]

    def consume() -> None:
        with site.subscriber(state=state, durable=True) as events:
            site.unit.start()
            site.unit.say(3)
            for batch in events.batches():
                if len(first) == 3:
                    raise CrashError
                first.extend(numbers(batch))
                if len(first) == 3:
                    site.unit.say(4)

    with pytest.raises(CrashError):
        consume()
    with site.subscriber(state=state, durable=True) as events:
        for batch in events.batches():
            again += [one for one in batch if isinstance(one, VerifiedEvent)]
            if len(again) == 4:
                break
    assert first == [1, 2, 3]
    assert numbers(again) == [4, 5, 6, 7]
    assert again[0].repeat


def test_consumer_that_stops_in_good_order_sees_no_repeat(site: Site) -> None:
    state = StateFile(site.folder / "seen.db")
    seen = []
    with site.subscriber(state=state, durable=True) as events:
        site.unit.start()
        site.unit.say(6)
        wait_until(lambda: site.unit.outbox.depth() == 0)
        seen += take(events, 2)
    with site.subscriber(state=state, durable=True) as events:
        seen += take(events, 4)
    found = [(o.event.data.seq, o.repeat) for o in seen if isinstance(o, VerifiedEvent)]
    assert found == [(seq, False) for seq in range(1, 7)]


def test_database_that_another_program_holds_costs_no_event(site: Site) -> None:
    state = StateFile(site.folder / "seen.db")
    with site.subscriber(state=state, durable=True) as events:
        site.unit.start()
        site.unit.say(2)
        take(events, 2)
    other = sqlite3.connect(site.folder / "seen.db", isolation_level=None)
    subscriber = site.subscriber(state=state, durable=True)

    def consume() -> None:
        with subscriber as events:
            site.unit.say(3)
            wait_until(lambda: site.unit.outbox.depth() == 0)
            other.execute("BEGIN IMMEDIATE")
            try:
                take(events, 3)
            finally:
                other.execute("ROLLBACK")

    with pytest.raises(StorageError):
        consume()
    other.close()
    with site.subscriber(state=StateFile(site.folder / "seen.db"), durable=True) as events:
        outcomes = [o for o in take(events, 3) if isinstance(o, VerifiedEvent)]
    assert [o.event.data.seq for o in outcomes] == [3, 4, 5]
    assert all(o.gap is None for o in outcomes)


def test_without_a_memory_what_was_not_handed_over_comes_again(site: Site) -> None:
    crash_over_next(site.subscriber(durable=True), site, 1, taken=0)
    with site.subscriber(durable=True) as events:
        (outcome,) = take(events, 1)
    assert isinstance(outcome, VerifiedEvent)
    assert outcome.event.data.seq == 1


def test_list_of_another_site_does_not_end_the_subscriber(site: Site) -> None:
    with site.subscriber() as events:
        site.unit.start()
        site.unit.say()
        take(events, 1)
        annex = msgspec.structs.replace(trust_list(site.unit.unit, serial=9), site="annex")
        write_atomic(site.trust, annex.sign(site.key).encode())
        site.clock.skipped_s += 6
        site.unit.say(2)
        assert all(isinstance(outcome, VerifiedEvent) for outcome in take(events, 2))
        site.unit.say()
        take(events, 1)
    assert len([notice for notice in site.notices if "of site annex, not hq" in notice]) == 1


def test_withheld_tail_is_told_by_a_running_subscriber(site: Site) -> None:
    unit = site.unit.unit
    rows = [unit.say() for _ in range(4)]
    reporter = HealthReporter(
        source=unit.source,
        boot="0123456789abcdef",
        signer=unit.key,
        clock=site.clock,
        outbox=type("Sent", (), {"head": lambda _: unit.outbox.head(), "depth": lambda _: 0})(),
        frames=lambda: 0,
        recognition=lambda: "running",
        temperature=lambda: None,
        disk_free=lambda: 1,
    )
    with site.subscriber() as events:
        thief = connect(site.broker, site.broker.authority.issue("door-1"), "door-1")
        thief.connection.publish(f"{BASE}/event/match", rows[0].payload)
        recorded = reporter.build()
        thief.connection.publish(f"{BASE}/health", recorded)
        thief.connection.publish(f"{BASE}/health", b"junk")
        thief.acks(3)
        event, refusal = take(events, 2)
        assert events.withheld() == {"door-1": 3}
        heard: list[int] = []
        events._on_health = lambda _, report: heard.append(report.uptime_s)
        for payload in (recorded, recorded, b"junk"):
            thief.connection.publish(f"{BASE}/health", payload)
        take(events, 1)
        assert heard == [], "what a broker repeats is no news of the unit"
        thief.connection.close()
    assert isinstance(event, VerifiedEvent)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.topic) == ("malformed", f"{BASE}/health")
    assert [notice for notice in site.notices if notice.startswith("3 events of unit door-1 were withheld")]


def test_broker_that_turns_everybody_away_for_long_is_one_sentence(site: Site) -> None:
    with site.subscriber(random=bytes) as events:
        site.broker.kill()
        with socket.create_server(("127.0.0.1", site.broker.port)) as door:
            thread = threading.Thread(target=lambda: take(events, 1))
            thread.start()
            for _ in range(4):
                door.accept()[0].close()
        site.broker.start()
        wait_until(lambda: "connected again" in site.notices)
        site.unit.start()
        site.unit.say()
        thread.join()
    away = [text for text in site.notices if "before MQTT began" in text]
    assert len(away) == 1, "as many notices as attempts would fill every output of a bridge"
