# SPDX-License-Identifier: Apache-2.0
"""Home Assistant: one retained discovery message that describes the whole unit as one device.

Source: Home Assistant, MQTT integration, "Device discovery payload". Matches and presence are ``event``
entities: Home Assistant ignores retained payloads for those, so a reconnect can never replay one. A match
is never a sensor. There is no switch, because Home Assistant cannot sign a command.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from agent.protocol.topics import DISCOVERY_PREFIX, Topics

SUPPORT_URL = "https://www.home-assistant.io/integrations/mqtt/"

# Home Assistant wants ``event_type`` at the top level and shows what else is there as attributes.
# What Home Assistant keeps says how old it is: ``time`` and ``clock`` are the unit's, ``late`` is for automations that
# open something. It is true as well where the age is not known, and for what a reconnection brings.
LATE_S = 10  # seconds; both clocks, the unit's network and Home Assistant's own delay are well within
_LATE = f"value_json.data.clock != 'synced' or (now() - as_datetime(value_json.time)).total_seconds() | abs > {LATE_S}"
# A unit whose acknowledgement was lost says the event again, which is nothing that happened: an empty text is no event.
# ``this`` is the entity as it was before; a unit counts on through its restarts, each with a ``boot`` of its own.
_AGAIN = "this.attributes.get('boot') == value_json.data.boot and value_json.data.seq <= this.attributes.get('seq')"
_FACTS = "dict(value_json.data, time=value_json.time, late=(" + _LATE + "){}) | to_json"
_EVENT = "{{% if this is not defined or not ({again}) %}}{{{{ {facts} }}}}{{% endif %}}"
_MATCH = _EVENT.format(again=_AGAIN, facts=_FACTS.format(""))
_PRESENCE = _EVENT.format(again=_AGAIN, facts=_FACTS.format(", event_type=value_json.data.state"))


class Discovery(msgspec.Struct, frozen=True):
    """The retained message, and the topic on which Home Assistant says that it was born."""

    topic: str
    payload: bytes
    birth_topic: str


def make_discovery(
    topics: Topics, *, name: str, model: str, version: str, presence: bool, health_interval_s: int
) -> Discovery:
    """Describe a unit; ``name`` is what people call it, ``model`` its board."""
    identity = f"postern_{topics.site}_{topics.unit}"  # names hold no '_': two units never share one
    document = {
        "device": {
            "identifiers": [identity],
            "name": name,
            "manufacturer": "Postern",
            "model": model,
            "sw_version": version,
            "serial_number": topics.unit,
        },
        "origin": {"name": "Postern", "sw_version": version, "support_url": SUPPORT_URL},
        "availability": [{"topic": topics.availability}],
        "qos": 1,
        "components": _components(topics, identity, presence=presence, expire_s=3 * health_interval_s),
    }
    payload = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Discovery(topics.discovery, payload, f"{DISCOVERY_PREFIX}/status")


def _components(topics: Topics, identity: str, *, presence: bool, expire_s: int) -> dict[str, dict[str, Any]]:
    def entity(key: str, platform: str, name: str, **facts: object) -> dict[str, Any]:
        return {"platform": platform, "unique_id": f"{identity}_{key}", "name": name, **facts}

    def event(kind: str, name: str, types: list[str], template: str, icon: str) -> dict[str, Any]:
        topic = topics.event(kind)
        return entity(kind, "event", name, state_topic=topic, event_types=types, value_template=template, icon=icon)

    def diagnostic(key: str, name: str, template: str, **facts: object) -> dict[str, Any]:
        told = {"state_topic": topics.health, "value_template": "{{ " + template + " }}"}
        return entity(key, "sensor", name, **told, entity_category="diagnostic", expire_after=expire_s, **facts)

    def number(key: str, name: str, template: str, unit: str | None = None, kind: str | None = None) -> dict[str, Any]:
        facts = {"device_class": kind, "unit_of_measurement": unit, "state_class": "measurement"}
        return diagnostic(key, name, template, **{fact: text for fact, text in facts.items() if text is not None})

    def word(key: str, name: str, options: list[str], icon: str) -> dict[str, Any]:
        return diagnostic(key, name, f"value_json.{key}", device_class="enum", options=options, icon=icon)

    components = {
        "match": event("match", "Match", ["match"], _MATCH, "mdi:account-check"),
        "fps": number("fps", "Frame rate", "(value_json.fps_milli / 1000) | round(1)", "fps"),
        "queue": number("queue", "Events waiting", "value_json.queue_depth"),
        "temperature": number("temperature", "Temperature", "value_json.temperature_c", "°C", "temperature"),
        "disk": number("disk", "Free storage", "value_json.disk_free_bytes", "B", "data_size"),
        "certificate": number("certificate", "Certificate", "value_json.certificate_days | default(none)", "d"),
        "clock": word("clock", "Clock", ["synced", "unsynced"], "mdi:clock-check"),
        "recognition": word("recognition", "Recognition", ["running", "paused"], "mdi:face-recognition"),
    }
    if presence:
        components["presence"] = event("presence", "Presence", ["arrived", "left"], _PRESENCE, "mdi:door")
    else:
        components["presence"] = {"platform": "event"}  # how a device message takes an entity back
    return components
