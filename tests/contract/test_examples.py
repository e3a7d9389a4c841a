# SPDX-License-Identifier: Apache-2.0
"""Every example of ``deploy/examples`` is a configuration that loads, and a scenario plays what it promises."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli import main
from agent.config.schema import Config
from tests.simulators.config import parse_config
from tools.lib.rig.scenario import Scenario, load_scenario

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


SCENARIOS = sorted((ROOT / "tools" / "scenarios").glob("*.yaml"))


@cache
def with_an_example() -> list[Scenario]:
    loaded = [load_scenario(file) for file in SCENARIOS if "example:" in file.read_text()]
    return [scenario for scenario in loaded if scenario.example is not None]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_is_played_as_it_is_shipped(file: Path) -> None:
    """By a scenario of its name; others may add what the file has not, and none puts other words in their place.

    What holds across checkpoints is a subscriber's: unit/test_subscribe_sequence.py and unit/test_cli_subscribe.py.
    """
    own = load_scenario(ROOT / "tools" / "scenarios" / file.name)
    assert own.example is not None
    assert own.example.samefile(file)
    assert not own.configuration
    shipped = yaml.safe_load(file.read_text())
    for scenario in (one for one in with_an_example() if one.example.samefile(file)):
        played = {key: value for key, value in scenario.changes().items() if key in shipped}
        if (shipped.get("feedback") or {}).get("text"):  # lies in the unit's folder there
            played["feedback"] = {**played["feedback"], "text": shipped["feedback"]["text"]}
        assert played == shipped
        assert not set(scenario.configuration) & {"activation", "liveness", "outputs", "rules", "feedback"}


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_that_asks_for_turns_shows_which(file: Path) -> None:
    shown = example(file)
    assert (shown.feedback.text is not None) == (shown.liveness == "require")
