# SPDX-License-Identifier: Apache-2.0
"""Home Assistant: a device for each person who is resolved here, and one for what is missing or not believed.

Nothing about a person is retained: when Home Assistant is born it is told of the devices again, and of no event. Only
what is of this moment is said, so that an automation never acts on the past. A person who is withdrawn is removed from
Home Assistant, device and entities.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

import agent
from agent.bridge.outputs import BATCH_NS, Item, Sent, is_of_this_moment, may_open
from agent.bridge.people import Person
from agent.bridge.records import Record
from agent.clock import Clock
from agent.errors import BrokerError, PosternError
from agent.mqtt.connection import Connection
from agent.mqtt.credentials import load_identity, offer_certificate
from agent.mqtt.lasting import Lasting
from agent.mqtt.records import BrokerSettings, Incoming
from agent.protocol.topics import certificate_topic

ROOT = "postern-people"
BIRTH = "homeassistant/status"
EXPIRY_S = 10  # of a message on its way: whoever acts on it later acts on the past
NOBODY_LISTENS = 0x10  # "no matching subscribers" (MQTT 5, 3.4.2.1)
OWN = "_bridge"  # beside the people: no name of the map has such a sign
TOLD = ("gap", "loss", "refusal", "notice")  # kinds of records that the bridge's own device tells
STABLE_S = 90.0  # a connection that lasted so long is shared with nobody
ANSWER_S = 5.0  # a broker that does not take a message by then is away


class HomeAssistant:
    """See the module; ``everybody`` gives the people of the map as it is now."""

    batch = 16
    private = True  # as the broker is

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        site: str,
        presence_s: int,
        words: str | None,
        everybody: Callable[[], Iterable[Person]],
        clock: Clock,
    ) -> None:
        """Connect to nothing yet; KeyStoreError when the files of the program cannot be used."""
        self._broker, self._site, self._presence_s, self._words = broker, site, presence_s, words
        self._everybody, self._clock = everybody, clock
        self._name = load_identity(broker.credentials, clock).common_name
        self._certificate_topic = certificate_topic(site, self._name)
        self._connection: Connection | None = None
        self._announced: dict[str, Person] = {}
        self._own_announced = False
        self._lasting = Lasting(clock, STABLE_S)

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        sent, began_ns = Sent(), self._clock.monotonic_ns()
        try:
            self._meet(now_s)
            for item in items:
                if self._clock.monotonic_ns() - began_ns > BATCH_NS and sent.through:
                    break  # what is said of the rest would be of the past
                self._say(item, now_s)
                sent.through = item.record.number
        except BrokerError as error:
            self.close()
            sent.problem = f"{self._lasting.ended(error)}; it is tried again"
        return sent

    def idle(self, now_s: int) -> None:
        """Keep the connection, and announce whoever is new or whom Home Assistant forgot; raises BrokerError."""
        try:
            self._meet(now_s)
        except BrokerError as error:
            self.close()
            raise BrokerError(f"{self._lasting.ended(error)}; it is tried again") from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _meet(self, now_s: int) -> None:  # noqa: ARG002
        if self._connection is None:
            connection = Connection(
                self._broker, client_id=self._name, clock=self._clock, common_name=self._name, session_expiry_s=0
            )
            connection.open()
            self._connection = connection
            self._lasting.began()
            connection.subscribe(BIRTH)
            connection.subscribe(self._certificate_topic, retained=True)
            self._forget_announced()
        self._hear(self._connection.poll(0.0).messages)
        self._lasting.look()
        if not self._own_announced:
            self._publish(self._config_topic(OWN), _own_device(self._site))
            self._own_announced = True
        people = {person.name: person for person in self._everybody()}
        for name, person in people.items():
            if self._announced.get(name) != person:
                self._publish(self._config_topic(name), _device(self._site, person, self._presence_s))
                self._announced[name] = person
        for name in [name for name in self._announced if name not in people]:
            self._remove(name)

    def _say(self, item: Item, now_s: int) -> None:
        body = item.record.body
        if body.kind in TOLD:
            self._publish(f"{ROOT}/{self._site}/{OWN}/event", _told(item.record))
        if body.kind == "withdrawn" and body.person is not None:
            self._remove(body.person)
        if item.person is None or not is_of_this_moment(item.record, now_s):
            return
        base = f"{ROOT}/{self._site}/{item.person.name}"
        if body.kind == "match":
            facts: dict[str, Any] = {
                "event_type": "seen",
                "door": body.unit,
                "zone": body.zone,
                "time": body.time,
                "key": item.record.key,
            }
            facts |= {"liveness": body.liveness, "may_open": may_open(item.record, now_s, self._words)}
            self._publish(f"{base}/event", json.dumps(facts).encode(), EXPIRY_S)
            self._publish(f"{base}/state", json.dumps({"seen": body.time, "door": body.unit}).encode(), EXPIRY_S)
        if body.kind in ("match", "presence"):
            here = b"OFF" if body.condition == "left" else b"ON"
            self._publish(f"{base}/presence", here, EXPIRY_S)

    def _remove(self, name: str) -> None:
        """An empty description removes a device ("Device discovery payload", Home Assistant's MQTT integration).

        It does so for a device that it was told of since its start, so that is said once more, without the name in
        full. Whoever is not listening is waited for: nothing of it is retained.
        """
        described = _device(self._site, Person(name, name), self._presence_s)
        for payload in (described, b""):
            if self._publish(self._config_topic(name), payload) == NOBODY_LISTENS:
                raise BrokerError("Home Assistant is not listening, and somebody has to be removed from it: start it")
        self._announced.pop(name, None)

    def _forget_announced(self) -> None:
        self._announced, self._own_announced = {}, False

    def _config_topic(self, name: str) -> str:
        return f"homeassistant/device/postern-people-{self._site}/{name}/config"

    def _publish(self, topic: str, payload: bytes, expiry_s: int | None = None) -> int:
        """Say it, never retained, and wait until the broker has it; BrokerError when it does not take it.

        The broker's reason code.
        """
        if self._connection is None:
            raise BrokerError("the connection for Home Assistant is gone")
        mid = self._connection.publish(topic, payload, expiry_s=expiry_s)
        end_ns = self._clock.monotonic_ns() + round(ANSWER_S * 1e9)
        while self._clock.monotonic_ns() < end_ns:
            polled = self._connection.poll(0.1)
            self._hear(polled.messages)
            for ack in polled.acks:
                if ack.mid == mid and not ack.accepted:
                    raise BrokerError(f"the broker refuses {topic}: give the program the role announcer")
                if ack.mid == mid:
                    return ack.reason
        raise BrokerError("the broker does not answer")

    def _hear(self, messages: list[Incoming]) -> None:
        if any(message.topic == BIRTH and message.payload == b"online" for message in messages):
            self._forget_announced()
        for message in messages:
            if message.topic == self._certificate_topic:
                with suppress(PosternError):  # what is none changes nothing
                    offer_certificate(self._broker.credentials, message.payload, self._clock)


def _device(site: str, person: Person, presence_s: int) -> bytes:
    identity = f"postern_people_{site}_{person.name}"
    base = f"{ROOT}/{site}/{person.name}"

    def entity(key: str, platform: str, name: str, **facts: object) -> dict[str, Any]:
        # Home Assistant keeps ids for ever, also of what was removed: they hold the name of the map, not that in full.
        place = f"{platform}.{person.name.replace('-', '_')}_{name.lower().replace(' ', '_')}"
        told = {"unique_id": f"{identity}_{key}", "default_entity_id": place}
        return {"platform": platform, "name": name, **told, **facts}

    state = f"{base}/state"
    return _document(
        {"identifiers": [identity], "name": person.title, "manufacturer": "Postern", "model": "person"},
        {
            "event": entity("event", "event", "Seen", state_topic=f"{base}/event", event_types=["seen"]),
            "seen": entity(
                "last_seen",
                "sensor",
                "Last seen",
                state_topic=state,
                device_class="timestamp",
                value_template="{{ value_json.seen }}",
            ),
            "door": entity(
                "last_door", "sensor", "Last door", state_topic=state, value_template="{{ value_json.door }}"
            ),
            "presence": entity(
                "presence",
                "binary_sensor",
                "Presence",
                state_topic=f"{base}/presence",
                device_class="occupancy",
                off_delay=presence_s,
            ),
        },
    )


def _own_device(site: str) -> bytes:
    identity = f"postern_people_{site}_{OWN}"
    told = {
        "platform": "event",
        "name": "Missing or refused",
        "unique_id": identity,
        "default_entity_id": f"event.postern_{site.replace('-', '_')}_missing_or_refused",
        "state_topic": f"{ROOT}/{site}/{OWN}/event",
        "event_types": list(TOLD),
    }
    device = {"identifiers": [identity], "name": f"Postern {site}", "manufacturer": "Postern", "model": "bridge"}
    return _document(device, {"told": told})


def _told(record: Record) -> bytes:
    """A record that is about no event, as attributes: who acts on it sees which numbers, of which unit, and why."""
    facts = msgspec.to_builtins(record.body)
    return json.dumps({"event_type": facts.pop("kind"), **facts, "key": record.key, "taken_s": record.taken_s}).encode()


def _document(device: dict[str, Any], components: dict[str, Any]) -> bytes:
    document = {
        "device": device,
        "origin": {"name": "Postern bridge", "sw_version": agent.__version__},
        "qos": 1,
        "components": components,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
