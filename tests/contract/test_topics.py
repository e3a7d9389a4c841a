# SPDX-License-Identifier: Apache-2.0
"""The topic tree is a contract: these strings are what other people's rules and automations hold."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from agent.errors import RefusedError
from agent.protocol.names import MAX_NAME
from agent.protocol.topics import Topics, event_filters
from agent.site.acl import Entry, program_entry, unit_entry
from agent.site.records import Role

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
