# SPDX-License-Identifier: Apache-2.0
"""The example that people copy: it parses, and its guards hold. ``test_home_assistant.py`` has the real thing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "deploy" / "home-assistant"
(AUTOMATION,) = yaml.safe_load((EXAMPLES / "automation.yaml").read_text())
BEFORE = "2026-11-26T07:00:00.000+00:00"


def state(text: str = "2026-11-26T08:00:00.000+00:00", **attributes: object) -> SimpleNamespace:
    return SimpleNamespace(state=text, attributes=SimpleNamespace(**{"zone": "door", "late": False, **attributes}))


def fires(before: object, after: object) -> bool:
    """Whether all conditions hold for a change, by the template engine that Home Assistant uses."""
    jinja2 = pytest.importorskip("jinja2")
    engine = jinja2.Environment(autoescape=False)
    trigger = SimpleNamespace(from_state=before, to_state=after)
    for condition in AUTOMATION["conditions"]:  # in order; the first that does not hold ends it
        assert condition["condition"] == "template"
        if engine.from_string(condition["value_template"]).render(trigger=trigger) != "True":
            return False
    return True


def test_it_listens_to_the_number_of_the_match() -> None:
    trigger: dict[str, Any]
    (trigger,) = AUTOMATION["triggers"]
    assert trigger["entity_id"].startswith("event.")
    assert trigger["attribute"] == "seq"
    assert not {"from", "not_from", "to", "not_to"} & trigger.keys()  # they would be of the number
    assert AUTOMATION["mode"] == "queued"


def test_match_counts_also_the_first_of_a_unit() -> None:
    assert fires(state(BEFORE, seq=1), state(seq=2))
    assert fires(SimpleNamespace(state="unknown", attributes=SimpleNamespace()), state(seq=1))


def test_what_an_entity_shows_again_is_not_a_person() -> None:
    away = SimpleNamespace(state="unavailable", attributes=SimpleNamespace())
    assert not fires(away, state(BEFORE, seq=1))  # it comes back
    assert not fires(None, state(BEFORE, seq=1))  # it is new, and Home Assistant remembers it
    assert not fires(state(BEFORE, seq=1), away)
    assert not fires(state(BEFORE, seq=1), None)


def test_neither_the_past_nor_another_zone_counts() -> None:
    assert not fires(state(BEFORE, seq=1), state(seq=2, late=True))
    assert not fires(state(BEFORE, seq=1), state(seq=2, zone="yard"))
