# SPDX-License-Identifier: Apache-2.0
"""The example that people copy: it parses, and its guards hold."""

from __future__ import annotations

from pathlib import Path

import yaml

EXAMPLES = Path(__file__).parents[2] / "deploy" / "home-assistant"


def test_automation_has_its_guards() -> None:
    (automation,) = yaml.safe_load((EXAMPLES / "automation.yaml").read_text())
    (trigger,) = automation["triggers"]
    assert trigger["entity_id"].startswith("event.")
    assert set(trigger["not_from"]) == {"unavailable", "unknown"}
    assert "total_seconds() < 10" in automation["conditions"][0]["value_template"]
