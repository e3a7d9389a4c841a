# SPDX-License-Identifier: Apache-2.0
"""Every example of ``deploy/examples`` is a configuration that loads, and a scenario plays what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.config.schema import Config
from tests.simulators.config import parse_config
from tools.lib.rig.scenario import load_scenario

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
ACROSS_UNITS = "checkpoints"  # a subscriber's: unit/test_subscribe_sequence.py and unit/test_cli_subscribe.py play it


def example(file: Path) -> Config:
    return parse_config(yaml.safe_dump(BASE | yaml.safe_load(file.read_text())).encode(), file)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_loads_and_opens_nothing_without_liveness(file: Path) -> None:
    shown = example(file)
    assert {rule.liveness for rule in shown.rules} <= {"passed"}
    assert shown.liveness == "require" or not shown.rules


@pytest.mark.parametrize("file", [file for file in EXAMPLES if file.stem != ACROSS_UNITS], ids=lambda file: file.stem)
def test_each_example_is_played_by_a_scenario_of_its_name(file: Path) -> None:
    shown, scenario = example(file), load_scenario(ROOT / "tools" / "scenarios" / file.name)
    played = scenario.configuration
    unchecked = [
        msgspec.to_builtins(msgspec.structs.replace(rule, zone=None)) | {"liveness": None} for rule in shown.rules
    ]
    as_played = parse_config(
        yaml.safe_dump(
            BASE
            | {k: v for k, v in played.items() if k in ("outputs", "rules")}
            | {"activation": {**BASE["activation"], "name": "door"}}
            | {k: v for k, v in played.items() if k in ("activation", "liveness")}
        ).encode(),
        file,
    )
    assert [
        msgspec.to_builtins(msgspec.structs.replace(rule, zone=None)) | {"liveness": None} for rule in as_played.rules
    ] == unchecked
    assert [one.name for one in as_played.outputs] == [one.name for one in shown.outputs]
