# SPDX-License-Identifier: Apache-2.0
"""Home Assistant hears of people who are resolved here, at this moment, and of nobody afterwards."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.bridge.home_assistant import HomeAssistant
from agent.bridge.outputs import ACT_WITHIN_S
from agent.bridge.people import Resolving
from agent.bridge.records import records_of, withdrawn
from agent.clock import SystemClock
from agent.subscribe.chain import Gap
from agent.subscribe.subscriber import Refusal
from agent.subscribe.verify import Loss
from tests.simulators.broker import Listener, RealBroker, connect
from tests.simulators.pki import Authority
from tests.unit.test_bridge_outputs import Bench, Known

pytestmark = pytest.mark.broker
CONFIG = "homeassistant/device/postern-people-hq/anna/config"
OWN, OWN_EVENT = "homeassistant/device/postern-people-hq/_bridge/config", "postern-people/hq/_bridge/event"
BASE = "postern-people/hq/anna"


@dataclass
class House:
    """A broker with Home Assistant listening, and the bridge's output for it."""

    folder: Path

    def __post_init__(self) -> None:
        self.broker = RealBroker(self.folder, Authority(self.folder / "pki"))
        self.broker.start()
        self.bench = Bench(self.folder)
        self.known = Known(self.bench)
        self.resolving = Resolving(self.known.people, self.known.keys, None)
        self.home = connect(
            self.broker,
            self.broker.authority.issue("home-assistant"),
            "home-assistant",
            "homeassistant/#",
            "postern-people/hq/#",
        )
        output = HomeAssistant(
            self.broker.settings(self.broker.authority.issue("announcer")),
            site="hq",
            presence_s=600,
            words=None,
            everybody=lambda: self.resolving.everybody().values(),
            clock=SystemClock(),
        )
        self.pump = self.bench.pump("hook", output, self.resolving.person)

    def heard(self, count: int) -> list[str]:
        """Topics of the next messages about people; then a moment in which no other may come."""
        self.home.messages.clear()
        self.home.pump(lambda: len([one for one in self.home.messages if one.topic != OWN]) >= count)
        self.home.messages += self.home.connection.poll(0.2).messages
        self.home.messages = [one for one in self.home.messages if one.topic != OWN]
        assert not any(message.retained for message in self.home.messages)
        return self.home.topics()

    def close(self) -> None:
        self.pump.stop()
        self.home.connection.close()
        self.bench.store.close()
        self.broker.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_person_is_a_device_with_event_last_seen_last_door_and_a_presence_that_ends(house: House) -> None:
    house.bench.hear(subject=house.known.names()[1])
    assert house.pump.step() == 0, house.bench.notices
    assert house.heard(4) == [CONFIG, f"{BASE}/event", f"{BASE}/state", f"{BASE}/presence"]
    device, event, state, presence = (message.payload for message in house.home.messages)
    components = json.loads(device)["components"]
    assert json.loads(device)["device"]["name"] == "Anna Bauer"
    assert set(components) == {"event", "seen", "door", "presence"}
    assert components["presence"]["off_delay"] == 600
    ids = {one["default_entity_id"] for one in components.values()}
    assert ids == {"event.anna_seen", "sensor.anna_last_seen", "sensor.anna_last_door", "binary_sensor.anna_presence"}
    assert json.loads(event)["event_type"] == "seen"
    assert json.loads(event)["may_open"] is False
    assert json.loads(state)["door"] == "door-3"
    assert presence == b"ON"


def test_what_home_assistant_keeps_for_ever_holds_no_name_in_full(house: House) -> None:
    """Its registry keeps ids of entities that were removed, and makes them of the device's name unless it is told."""
    house.pump.step()
    house.heard(1)
    document = json.loads(house.home.messages[0].payload)
    kept = [document["device"]["identifiers"], *document["components"].values()]
    assert "bauer" not in json.dumps(kept).lower()
    assert all("default_entity_id" in one for one in document["components"].values())


def test_nothing_about_people_is_left_on_the_broker(house: House) -> None:
    house.bench.hear(subject=house.known.names()[0])
    house.pump.step()
    house.heard(4)
    late: Listener = connect(house.broker, house.broker.authority.issue("home-assistant"), "home-assistant")
    late.connection._client.subscribe("postern-people/#")
    late.connection._client.subscribe("homeassistant/device/#")
    assert late.connection.poll(0.5).messages == []
    late.connection.close()


@pytest.mark.parametrize("leaf", ["backlog", "event"])
def test_the_past_is_not_told(house: House, leaf: str) -> None:
    house.bench.hear(subject=house.known.names()[0], leaf=leaf)
    house.bench.clock.advance(ACT_WITHIN_S + 1 if leaf == "event" else 0)
    house.pump.step()
    assert house.heard(1) == [CONFIG]
    assert house.bench.store.behind()["hook"] == 0


def test_somebody_who_is_not_on_the_map_is_nobody_to_home_assistant(house: House) -> None:
    house.bench.hear()
    house.pump.step()
    assert house.heard(1) == [CONFIG]


def test_what_is_missing_or_not_believed_is_told_by_a_device_of_the_bridge_whenever_it_is_heard(house: House) -> None:
    """It names nobody, and whoever is to look after it has to hear of it, also late."""
    bench = house.bench
    bench.hear()
    bench.unit.say()
    bench.hear()
    for outcome in (Refusal("replayed", "postern/hq/door-3/event/match", "older"), Loss("door-3", Gap(2, 2), 1)):
        bench.store.put(records_of(outcome, "hq", serial=bench.store.serial), bench.now_s)
    bench.clock.advance(3600)
    house.pump.step()
    house.home.pump(lambda: house.home.topics().count(OWN_EVENT) == 3)
    (device,) = (json.loads(one.payload) for one in house.home.messages if one.topic == OWN)
    (component,) = device["components"].values()
    assert component["state_topic"] == OWN_EVENT
    assert component["default_entity_id"] == "event.postern_hq_missing_or_refused"
    assert not any(one.retained for one in house.home.messages)
    told = [json.loads(one.payload) for one in house.home.messages if one.topic == OWN_EVENT]
    assert [one["event_type"] for one in told] == ["gap", "refusal", "loss"]
    assert all(one["event_type"] in component["event_types"] for one in told)
    assert [one["unit"] for one in told] == ["door-3"] * 3
    assert (told[0]["first"], told[0]["last"], told[1]["reason"], told[2]["count"]) == (2, 2, "replayed", 1)
    assert len({one["key"] for one in told}) == 3
    assert not {"subject", "person", "event"} & {name for one in told for name in one}


def test_birth_of_home_assistant_brings_devices_back_and_no_event(house: House) -> None:
    house.bench.hear(subject=house.known.names()[0])
    house.pump.step()
    house.heard(4)
    house.home.connection.publish("homeassistant/status", b"online")
    house.home.pump(lambda: "homeassistant/status" in house.home.topics())
    for _ in range(20):
        house.pump.step()
    assert house.heard(1) == [CONFIG]


def test_withdrawal_removes_the_device(house: House) -> None:
    bench = house.bench
    house.pump.step()
    house.heard(1)
    bench.store.people(frozenset(house.resolving.everybody()))
    house.known.write()
    assert house.resolving.refresh()
    (gone,) = bench.store.people(frozenset(house.resolving.everybody()))
    bench.store.forget_person(gone, withdrawn(gone, serial=secrets.token_hex(4)), bench.now_s)
    house.pump.step()
    assert house.heard(1)[0] == CONFIG
    assert house.home.messages[-1].payload == b""
    assert not any(b"Anna Bauer" in message.payload for message in house.home.messages)


def test_somebody_is_removed_also_where_home_assistant_is_away_when_they_go(house: House) -> None:
    bench = house.bench
    house.pump.step()
    house.heard(1)
    house.home.connection.close()
    bench.store.people(frozenset(house.resolving.everybody()))
    house.known.write()
    assert house.resolving.refresh()
    bench.store.people(frozenset())
    bench.store.forget_person("anna", withdrawn("anna", serial=secrets.token_hex(4)), bench.now_s)
    assert house.pump.step() > 0
    assert "not listening" in bench.notices[-1]
    assert bench.store.behind()["hook"] == 1
    house.home = connect(
        house.broker, house.broker.authority.issue("home-assistant"), "home-assistant", "homeassistant/#"
    )
    assert house.pump.step() == 0, bench.notices
    assert house.heard(2)[-1] == CONFIG
    assert house.home.messages[-1].payload == b""
