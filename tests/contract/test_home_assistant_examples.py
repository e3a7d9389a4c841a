# SPDX-License-Identifier: Apache-2.0
"""The examples that people copy: they parse, and their guards hold."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "deploy" / "home-assistant"


def test_automation_has_its_guards() -> None:
    (automation,) = yaml.safe_load((EXAMPLES / "automation.yaml").read_text())
    (trigger,) = automation["triggers"]
    assert trigger["entity_id"].startswith("event.")
    assert set(trigger["not_from"]) == {"unavailable", "unknown"}
    assert "total_seconds() < 10" in automation["conditions"][0]["value_template"]


def flow() -> dict[str, Any]:
    return {node["id"]: node for node in json.loads((EXAMPLES / "node-red-flow.json").read_text())}


def test_flow_is_wired() -> None:
    nodes = flow()
    for node in nodes.values():
        for wires in node.get("wires", []):
            assert set(wires) <= set(nodes)
    assert " --json" in nodes["postern-subscribe"]["command"]


def test_flow_passes_fresh_accepted_matches_alone_however_the_lines_are_cut() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node to run the flow's function")
    data = {"subject": "p1_x", "zone": "door", "liveness": "not_checked"}
    good = {"outcome": "accepted", "fresh": True, "kind": "match", "unit": "door-1", "event": {"data": data}}
    lines = [
        {**good, "outcome": "refused"},
        {**good, "fresh": False},
        {**good, "kind": "presence"},
        good,
        {"outcome": "refused", "reason": "replayed", "topic": "t"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "not json\n"
    script = f"""
        const sent = [], kept = {{}};
        const node = {{ send: message => sent.push(message) }};
        const context = {{ get: key => kept[key], set: (key, value) => {{ kept[key] = value; }} }};
        const run = msg => {{ {flow()["postern-lines"]["func"]} }};
        const text = {json.dumps(text)};
        for (let at = 0; at < text.length; at += 17) run({{ payload: text.slice(at, at + 17) }});
        console.log(JSON.stringify(sent));
    """
    output = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == [{"topic": "door-1", "payload": data}]
