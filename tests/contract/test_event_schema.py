# SPDX-License-Identifier: Apache-2.0
"""The event's types are the promise: nothing that could hold a face, a score or a name can leave a unit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.event import MAX_EVENT_BYTES, Event, canonical
from agent.protocol.health import Health
from agent.protocol.schema import event_schema, trust_schema
from agent.uplink.info import Info
from tests.simulators.signing_unit import SigningUnit

SCHEMA = event_schema()
PERSONAL = re.compile(
    r"score|box|image|picture|frame|crop|embedding|vector|template|quality|name|staff|employee|person|age|gender|sex"
    r"|emotion|ethnic|confidence|similarity|distance|landmark|count(?!$)|stranger|unknown|payload|blob|text|note",
    re.IGNORECASE,
)
ALLOWED_FIELDS = {
    "Event": {"specversion", "type", "source", "id", "time", "datacontenttype", "data", "sig"},
    "MatchData": {
        "event_type",
        "subject",
        "audience",
        "epoch",
        "zone",
        "method",
        "liveness",
        "policy",
        "model",
        "granted",
    }
    | {"boot", "seq", "prev", "clock"},
    "PresenceData": {"event_type", "subject", "audience", "epoch", "zone", "state", "boot", "seq", "prev", "clock"},
    "UnitData": {"event_type", "condition", "lost", "boot", "seq", "prev", "clock"},
    "Lost": {"first", "last", "count", "reason"},
}


def nodes(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def test_an_event_has_exactly_the_fields_of_the_design() -> None:
    assert {name: set(body["properties"]) for name, body in SCHEMA["$defs"].items()} == ALLOWED_FIELDS


def test_no_field_is_named_like_something_about_a_face_or_a_person() -> None:
    for fields in ALLOWED_FIELDS.values():
        assert [field for field in fields if PERSONAL.search(field)] == []


def test_no_number_but_bounded_integers_can_appear() -> None:
    for node in nodes(SCHEMA):
        assert node.get("type") not in ("number", "array", "boolean"), node
        if node.get("type") == "integer":
            assert node["minimum"] >= 1
            assert node["maximum"] == 2**53 - 1


@pytest.mark.parametrize("document", [Health, Info])
def test_no_other_document_of_a_unit_has_a_number_with_a_fraction_or_room_for_a_vector(document: type) -> None:
    for node in nodes(msgspec.json.schema(document)):
        assert node.get("type") != "number", node
        assert node.get("type") != "array" or node["items"].get("type") == "string", node
        assert not {"format", "contentEncoding"} & set(node), node  # how bytes would appear


def test_no_text_without_a_pattern_can_appear() -> None:
    for node in nodes(SCHEMA):
        if node.get("type") == "string":
            assert node["pattern"].startswith("^"), node
            assert node["pattern"].endswith("$(?!\\n)"), node
            assert not re.search(r"(?<!\\)\.|[*+]|\{\d+,\}", node["pattern"]), f"unbounded: {node}"


def test_no_object_takes_unknown_fields() -> None:
    for node in nodes(SCHEMA):
        if node.get("type") == "object":
            assert node["additionalProperties"] is False, node


def test_schemas_are_json() -> None:
    for schema in (SCHEMA, trust_schema()):
        assert json.loads(json.dumps(schema)) == schema
        assert schema["$schema"].endswith("2020-12/schema")


def value_of(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Anything that the schema allows at ``node``."""
    node = resolve(node)
    if "enum" in node:
        return st.sampled_from(node["enum"])
    if "anyOf" in node:
        return st.one_of([value_of(part) for part in node["anyOf"]])
    match node["type"]:
        case "object":
            required = {name: value_of(part) for name, part in node["properties"].items() if name in node["required"]}
            optional = {name: value_of(part) for name, part in node["properties"].items() if name not in required}
            return st.fixed_dictionaries(required, optional=optional)
        case "string":
            return st.from_regex(
                node["pattern"].removesuffix("(?!\\n)"), fullmatch=True, alphabet=st.characters(codec="ascii")
            )
        case "integer":
            return st.integers(node["minimum"], node["maximum"])
        case kind:
            assert kind == "null"
            return st.none()


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])  # long patterns take long to draw
@given(value_of({"$ref": "#/$defs/Event"}))
def test_whatever_the_schema_allows_is_small_holds_no_float_and_is_read_back_unchanged(members: dict[str, Any]) -> None:
    event = msgspec.convert(members, Event)
    encoded = canonical(members) + members["sig"].encode()
    assert len(encoded) < MAX_EVENT_BYTES
    assert not any(isinstance(value, float) for node in nodes(members) for value in node.values())
    assert msgspec.convert(msgspec.to_builtins(event), Event) == event


@settings(max_examples=60)
@given(
    st.sampled_from(["score", "box", "image", "embedding", "quality", "name"]),
    st.one_of(st.floats(allow_nan=False), st.text(max_size=20), st.integers(), st.lists(st.integers(), max_size=4)),
    st.booleans(),
)
def test_no_further_field_can_be_signed(field: str, value: object, in_data: bool) -> None:
    members = json.loads(EXAMPLE)
    (members["data"] if in_data else members)[field] = value
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(members, Event)


@settings(max_examples=60)
@given(st.data())
def test_no_field_takes_a_float(data: st.DataObject) -> None:
    members = json.loads(EXAMPLE)
    holder = data.draw(st.sampled_from([members, members["data"]]))
    field = data.draw(st.sampled_from(sorted(holder)))
    holder[field] = data.draw(st.floats())
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(members, Event)


@pytest.fixture(scope="module", autouse=True)
def _example(tmp_path_factory: pytest.TempPathFactory) -> None:
    global EXAMPLE
    unit = SigningUnit(tmp_path_factory.mktemp("schema") / "outbox.db")
    EXAMPLE = unit.say().payload
    unit.outbox.close()


EXAMPLE = b""
