# SPDX-License-Identifier: Apache-2.0
"""The topic tree is a contract: these strings are what other people's rules and automations hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from agent.errors import RefusedError
from agent.protocol.asyncapi import asyncapi
from agent.protocol.event import CONTENT_TYPE
from agent.protocol.names import MAX_NAME
from agent.protocol.program import Role
from agent.protocol.topics import (
    Topics,
    certificate_topic,
    event_filters,
    health_filter,
    list_part_topic,
    list_topic,
    replay_filter,
)
from agent.site.acl import Entry, program_entry, unit_entry

TOPICS = Topics("hq", "door-3")
ACL = Path(__file__).parents[2] / "deploy" / "mosquitto" / "acl"


def test_the_tree() -> None:
    assert TOPICS.availability == "postern/hq/door-3/availability"
    assert TOPICS.info == "postern/hq/door-3/info"
    assert TOPICS.health == "postern/hq/door-3/health"
    assert TOPICS.event("match") == "postern/hq/door-3/event/match"
    assert TOPICS.event("presence") == "postern/hq/door-3/event/presence"
    assert TOPICS.event("unit") == "postern/hq/door-3/event/unit"
    assert TOPICS.backlog("match") == "postern/hq/door-3/backlog/match"
    assert TOPICS.requests == "postern/hq/door-3/request/#"
    assert TOPICS.response("enrol/begin") == "postern/hq/door-3/response/enrol/begin"
    assert event_filters("hq") == ("postern/hq/+/event/+", "postern/hq/+/backlog/+")


def test_verb_of_a_request() -> None:
    assert TOPICS.verb("postern/hq/door-3/request/enrol/begin") == "enrol/begin"
    assert TOPICS.verb("postern/hq/door-4/request/health") is None
    assert TOPICS.verb("postern/hq/door-3/response/health") is None


def test_kind_without_a_leaf_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="unknown event kind"):
        TOPICS.event("stranger")


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "Door", "a b", "a\n", "ä", "a" * (MAX_NAME + 1), "a_b", "$SYS"])
def test_name_that_could_change_the_tree_is_refused(name: str) -> None:
    for make in (lambda: Topics(name, "door-3"), lambda: Topics("hq", name), lambda: event_filters(name)):
        with pytest.raises(RefusedError):
            make()


@given(site=st.text(max_size=20), unit=st.text(max_size=20))
def test_every_accepted_name_stays_one_level(site: str, unit: str) -> None:
    try:
        topics = Topics(site, unit)
    except RefusedError:
        return
    assert topics.event("match").split("/") == ["postern", site, unit, "event", "match"]


def test_rules_of_the_site_kit_are_those_of_the_pattern_file() -> None:
    """Two ways to write one list: by pattern for any authority, by name from the kit."""
    rules = ACL.read_text().replace("SITE", "hq")
    patterns = {line.removeprefix("pattern ") for line in rules.splitlines() if line.startswith("pattern ")}

    def lines(entry: Entry) -> set[str]:
        return {f"{access} {topic}" for access, topic in entry.rights}

    assert lines(unit_entry("hq", "door-3")) == {rule.replace("%u", "door-3") for rule in patterns}
    roles = dict(block.split("\n", 1) for block in rules.split("user ")[1:])
    assert set(roles) == set(get_args(Role)) - {"service"}, "the service works with the kit's own authority alone"
    for role in set(get_args(Role)) & set(roles):
        topics = {line.removeprefix("topic ") for line in roles[role].splitlines() if line.startswith("topic ")}
        assert topics == lines(program_entry("hq", role, role))


def test_the_deployed_rules_know_every_leaf() -> None:
    rules = ACL.read_text().replace("SITE", "hq").replace("%u", "door-3")
    for topic in (TOPICS.availability, TOPICS.info, TOPICS.health):
        assert f"pattern write {topic}\n" in rules
    for branch in ("event/+", "backlog/+", "response/#"):
        assert f"pattern write {TOPICS.base}/{branch}\n" in rules
    assert f"pattern read {TOPICS.requests}\n" in rules


def test_what_the_site_says_to_all_and_what_they_listen_to() -> None:
    assert list_topic("hq") == "postern-site/hq/trust"
    assert (list_part_topic("hq", 2), list_part_topic("hq")) == ("postern-site/hq/trust/2", "postern-site/hq/trust/+")
    assert certificate_topic("hq", "door-log") == "postern-site/hq/certificate/door-log"
    assert replay_filter("hq") == "postern/hq/+/response/outbox/replay"
    assert health_filter("hq") == "postern/hq/+/health"
    for make in (list_topic, list_part_topic, event_filters, replay_filter, health_filter):
        with pytest.raises(RefusedError, match="the site name 'h#q' is not usable"):
            make("h#q")
    with pytest.raises(RefusedError, match="the site name"):
        certificate_topic("h/q", "log")
    with pytest.raises(RefusedError, match="the program name"):
        certificate_topic("hq", "+")


def _references(part: object) -> Iterator[str]:
    for name, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if name == "$ref":
            yield value
        yield from _references(value)


def test_the_document_of_topics_is_whole_and_says_the_topics_of_a_unit() -> None:
    document = asyncapi("1.2.3")
    assert set(document) == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert (document["asyncapi"], document["defaultContentType"]) == ("3.0.0", "application/json")
    info = document["info"]
    assert (info["title"], info["version"], info["license"]["name"]) == ("Postern unit", "1.2.3", "Apache-2.0")
    for reference in _references(document):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert found
    topics = {
        "live": TOPICS.event("match"),
        "backlog": TOPICS.backlog("match"),
        "health": TOPICS.health,
        "availability": TOPICS.availability,
        "request": TOPICS.requests.replace("#", "enrol/begin"),
        "response": TOPICS.response("enrol/begin"),
    }
    assert set(document["channels"]) == set(document["operations"]) == set(topics)
    for name, channel in document["channels"].items():
        filled = channel["address"].format(site="hq", unit="door-3", kind="match", verb="enrol/begin")
        assert filled == topics[name]
        assert list(channel["parameters"]) == re.findall(r"{(\w+)}", channel["address"])
        ((message, reference),) = channel["messages"].items()
        assert reference == {"$ref": f"#/components/messages/{message}"}
        assert document["operations"][name] == {
            "action": "receive" if name == "request" else "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
            "bindings": {"mqtt": {"qos": 1, "retain": name == "availability"}},
        }
    messages = document["components"]["messages"]
    assert {name: one["contentType"] for name, one in messages.items()} == {
        "event": CONTENT_TYPE,
        "health": "application/json",
        "availability": "text/plain",
        "request": "application/jose",
        "response": "application/jose",
    }
    assert messages["availability"]["payload"] == {"type": "string", "enum": ["online", "offline"]}
    assert messages["request"]["payload"] == {"type": "string", "minLength": 1}
    assert messages["response"]["payload"]["type"] == "string"
    assert re.search(messages["response"]["payload"]["pattern"], "aA0.b_-.c9")
    assert messages["event"]["payload"] == {"$ref": "#/components/schemas/Event"}
    assert messages["health"]["payload"] == {"$ref": "#/components/schemas/Health"}
