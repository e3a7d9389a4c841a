# SPDX-License-Identifier: Apache-2.0
"""Every scenario's promise holds for a whole unit in this process, and the same scenario gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.rigging.__main__ import SCENARIOS
from tools.rigging.inprocess import play_here
from tools.rigging.outcome import Run, judge
from tools.rigging.scenario import load_scenario

pytestmark = pytest.mark.timeout(600)  # each takes about two seconds of processor time; machines may be busy

FILES = sorted(SCENARIOS.glob("*.yaml"))
# One with chance in it (jitter of reconnecting, a torn write), one with commands and keys.
REPEATED = ("power-cut", "withdrawal-in-view")


def play(file: Path, folder: Path) -> Run:
    run = play_here(load_scenario(file), folder)
    if isinstance(run, str):
        pytest.skip(run)
    return run


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_the_scenario_promises_holds(file: Path, tmp_path: Path) -> None:
    scenario = load_scenario(file)
    run = play(file, tmp_path / "first")
    wrong = [f"{check.name}: {check.found}" for check in judge(scenario, run) if not check.ok]
    assert not wrong, f"{scenario.promise}\n" + "\n".join(run.log)
    if file.stem in REPEATED:
        again = run.same_as(play(file, tmp_path / "again"))
        assert again.ok, again.found
        assert len(run.messages) >= 3


def test_another_seed_signs_with_other_keys(tmp_path: Path) -> None:
    file = SCENARIOS / "empty-gallery.yaml"
    text = file.read_text().replace("scene: ../scenes", f"scene: {SCENARIOS.parent / 'scenes'}")
    other = tmp_path / "other.yaml"
    other.write_text(f"{text}seed: 7\n")
    assert not play(file, tmp_path / "a").same_as(play(other, tmp_path / "b")).ok


def test_there_are_scenarios_for_what_was_asked() -> None:
    assert len(FILES) >= 20
