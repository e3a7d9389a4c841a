# SPDX-License-Identifier: Apache-2.0
"""Every example of ``deploy/examples`` is a configuration that loads, and a scenario plays what it promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.cli import main
from agent.config.schema import Config
from tests.simulators.config import parse_config
from tools.lib.rig.scenario import load_scenario

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
EXAMPLES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))


def example(file: Path) -> Config:
    return parse_config(yaml.safe_dump(BASE | yaml.safe_load(file.read_text())).encode(), file)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_loads_and_opens_nothing_without_liveness(file: Path) -> None:
    shown = example(file)
    assert {rule.liveness for rule in shown.rules} <= {"passed"}
    assert shown.liveness == "require" or not shown.rules


OPENS = {
    "boarding": "gate and barrier for the bearer of a token, once a token, once in",
    "dispenser": "motor for a match, once in 540 s a person, if liveness passed",
    "locker": "bolt for a question that is verified, once in 30 s a person, if liveness passed",
    "office-door": "strike for a match, once in 10 s a person, if liveness passed",
    "turnstile-without-wire": "turnstile for a match, once in 10 s a person, if liveness passed",
    "checkpoints": "nothing",
    "driver-check": "nothing",
}
ACTS = {
    "boarding": "only the nearest person, within 30 s after a token that is held up",
    "driver-check": "only the nearest person, within 10 s after the key or a signed command",
    "locker": "only the nearest person, within 30 s after a signed command",
}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_check_config_says_in_words_what_each_example_does(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(BASE | yaml.safe_load(file.read_text())))
    assert main(["check-config", "--elsewhere", str(config)]) == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["opens"].startswith(OPENS[file.stem])
    assert said["embeds"].startswith(ACTS.get(file.stem, "only who stays"))
    for paper in ("notice", "assessment"):
        assert main([paper, "-c", str(config)]) == 0
    assert len(capsys.readouterr().out) > 1000


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_is_played_by_a_scenario_of_its_name(file: Path) -> None:
    # What holds across checkpoints is a subscriber's: unit/test_subscribe_sequence.py and unit/test_cli_subscribe.py.
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
