# SPDX-License-Identifier: Apache-2.0
"""The example that people copy: it parses, and its guards hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "deploy" / "home-assistant"


def test_automation_has_its_guards() -> None:
    (automation,) = yaml.safe_load((EXAMPLES / "automation.yaml").read_text())
    (trigger,) = automation["triggers"]
    assert trigger["entity_id"].startswith("event.")
    assert set(trigger["not_from"]) == {"unavailable", "unknown"}
    jinja2 = pytest.importorskip("jinja2")
    condition = jinja2.Environment(autoescape=False).from_string(automation["conditions"][0]["value_template"])

    def holds(**attributes: object) -> bool:
        state = SimpleNamespace(state="2026-11-26T08:00:00.000+00:00", attributes=SimpleNamespace(**attributes))
        return str(condition.render(trigger=SimpleNamespace(to_state=state))) == "True"

    assert holds(late=False)
    assert not holds(late=True)
