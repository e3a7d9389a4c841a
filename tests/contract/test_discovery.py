# SPDX-License-Identifier: Apache-2.0
"""What Home Assistant requires of a device discovery message, and what must never be in one.

Source of the rules: Home Assistant core, ``components/mqtt/schemas.py`` and ``discovery.py`` (device discovery).
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from agent.protocol.topics import Topics
from agent.uplink.discovery import make_discovery

TOPICS = Topics("hq", "door-3")
DISCOVERY = make_discovery(
    TOPICS, name="Front door", model="Raspberry Pi 4", version="0.1.0", presence=True, health_interval_s=60
)
DOCUMENT: dict[str, Any] = json.loads(DISCOVERY.payload)
COMPONENTS: dict[str, dict[str, Any]] = DOCUMENT["components"]

# homeassistant/components/mqtt/discovery.py, TOPIC_MATCHER, behind the prefix
TOPIC = re.compile(r"(?P<component>\w+)/(?:(?P<node_id>[a-zA-Z0-9_-]+)/)?(?P<object_id>[a-zA-Z0-9_-]+)/config")


def test_topic_is_one_that_home_assistant_listens_to() -> None:
    match = TOPIC.fullmatch(DISCOVERY.topic.removeprefix("homeassistant/"))
    assert match is not None
    assert match.groupdict() == {"component": "device", "node_id": "postern-hq", "object_id": "door-3"}
    assert DISCOVERY.birth_topic == "homeassistant/status"


def test_required_members_are_there() -> None:
    assert DOCUMENT["device"]["identifiers"]
    assert DOCUMENT["origin"]["name"] == "Postern"
    assert DOCUMENT["availability"] == [{"topic": TOPICS.availability}]
    for component in COMPONENTS.values():
        assert component["platform"] in {"event", "sensor"}
        assert component["state_topic"].startswith("postern/hq/door-3/")
    unique = [component["unique_id"] for component in COMPONENTS.values()]
    assert len(set(unique)) == len(unique)


def test_matches_and_presence_are_events_and_never_states() -> None:
    events = {key: c for key, c in COMPONENTS.items() if c["platform"] == "event"}
    assert {key: c["event_types"] for key, c in events.items()} == {"match": ["match"], "presence": ["arrived", "left"]}
    for component in COMPONENTS.values():
        if component["platform"] != "event":
            assert "/event/" not in component["state_topic"]
            assert component["entity_category"] == "diagnostic"


def test_no_automation_can_hang_on_the_backlog_or_command_a_unit() -> None:
    text = DISCOVERY.payload.decode()
    assert "backlog" not in text
    assert "command_topic" not in text


def test_diagnostics_expire_when_health_stops() -> None:
    for key in ("fps", "queue", "temperature", "clock"):
        assert COMPONENTS[key]["expire_after"] == 180


def test_presence_is_left_out_where_it_is_off() -> None:
    without = make_discovery(TOPICS, name="n", model="m", version="1", presence=False, health_interval_s=60)
    assert json.loads(without.payload)["components"]["presence"] == {"platform": "event"}  # takes the entity back


def test_two_units_never_share_an_identity() -> None:
    one = make_discovery(Topics("hq-a", "b"), name="n", model="m", version="1", presence=True, health_interval_s=60)
    two = make_discovery(Topics("hq", "a-b"), name="n", model="m", version="1", presence=True, health_interval_s=60)
    assert one.topic != two.topic
    assert json.loads(one.payload)["device"]["identifiers"] != json.loads(two.payload)["device"]["identifiers"]


NOW = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "type": "io.postern.presence.v1",
    "time": "2026-11-26T08:00:00Z",
    "data": {
        "event_type": "presence",
        "state": "arrived",
        "subject": "p1_" + "0" * 32,
        "zone": "door",
        "seq": 7,
        "clock": "synced",
    },
}
HEALTH = {"fps_milli": 12_480, "queue_depth": 0, "temperature_c": 51, "clock": "synced", "recognition": "running"}


def test_templates_give_what_home_assistant_expects() -> None:
    """Rendered with the template engine that Home Assistant uses, and its filters ``to_json`` and ``round``."""
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(autoescape=False)
    environment.filters["to_json"] = json.dumps
    environment.globals |= {"now": lambda: NOW, "as_datetime": datetime.fromisoformat}

    def render(key: str, value: object) -> str:
        return str(environment.from_string(COMPONENTS[key]["value_template"]).render(value_json=value))

    match = json.loads(render("match", {**EVENT, "data": {**EVENT["data"], "event_type": "match"}}))
    assert match.pop("event_type") in COMPONENTS["match"]["event_types"]
    assert match["zone"] == "door"
    presence = json.loads(render("presence", EVENT))
    assert presence.pop("event_type") == "arrived"
    assert render("fps", HEALTH) == "12.5"
    assert render("temperature", HEALTH) == "51"
    assert render("clock", HEALTH) in COMPONENTS["clock"]["options"]
    assert render("recognition", HEALTH) in COMPONENTS["recognition"]["options"]
    assert render("certificate", HEALTH) == "None"  # which Home Assistant shows as unknown
    assert render("certificate", {**HEALTH, "certificate_days": 12}) == "12"


@pytest.mark.parametrize(
    ("age_s", "clock", "late"),
    [(0, "synced", False), (9, "synced", False), (33, "synced", True), (-60, "synced", True), (0, "unsynced", True)],
)
def test_what_home_assistant_keeps_says_how_old_it_is(age_s: int, clock: str, late: bool) -> None:
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(autoescape=False)
    environment.filters["to_json"] = json.dumps
    environment.globals |= {"now": lambda: NOW, "as_datetime": datetime.fromisoformat}
    happened = (NOW - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for key, kind in (("match", "match"), ("presence", "presence")):
        event = {"time": happened, "data": {**EVENT["data"], "event_type": kind, "clock": clock}}
        kept = json.loads(environment.from_string(COMPONENTS[key]["value_template"]).render(value_json=event))
        assert (kept["time"], kept["clock"], kept["late"]) == (happened, clock, late)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({}, True),  # the first match of a unit
        ({"boot": "b" * 16, "seq": 6}, True),
        ({"boot": "b" * 16, "seq": 7}, False),
        ({"boot": "b" * 16, "seq": 8}, False),  # both were on their way when the connection was cut
        ({"boot": "a" * 16, "seq": 9}, True),  # a unit that took the place of another counts from one
    ],
)
def test_event_that_a_unit_says_again_is_no_event(seen: dict[str, Any], told: bool) -> None:
    """Home Assistant gives templates the entity as ``this`` and takes an empty text for nothing."""
    jinja2 = pytest.importorskip("jinja2")
    environment = jinja2.Environment(autoescape=False)
    environment.filters["to_json"] = json.dumps
    environment.globals |= {"now": lambda: NOW, "as_datetime": datetime.fromisoformat}
    event = {**EVENT, "data": {**EVENT["data"], "boot": "b" * 16}}
    for key in ("match", "presence"):
        template = environment.from_string(COMPONENTS[key]["value_template"])
        said = template.render(value_json=event, this=SimpleNamespace(attributes=seen))
        assert bool(said) is told
