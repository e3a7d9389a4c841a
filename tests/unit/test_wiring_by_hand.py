# SPDX-License-Identifier: Apache-2.0
"""What is done at a stopped unit by hand: each act, and each refusal with what to do."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.audit.chain import read_entries
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.door.feedback import TEXTS
from agent.errors import RefusedError
from agent.protocol.subject import SubjectId
from agent.unit.by_hand import card_number, erase, held, listing, outputs_off
from tests.simulators import unit_life
from tests.simulators.unit_life import enrol, opened

CLOCK = SystemClock()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return unit_life.write_unit(tmp_path / "config.yaml", tmp_path / "unit")


@pytest.fixture
def people(config: Config) -> list[SubjectId]:
    rng = np.random.default_rng(5)
    with opened(config, CLOCK) as stores:
        return [enrol(stores, config, CLOCK, rng) for _ in range(3)]


def changed(config: Config, folder: Path, **sections: Any) -> Config:
    data = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "changed.yaml").write_text(yaml.safe_dump(data | sections))
    return load_config(folder / "changed.yaml")


def test_with_the_outputs_off_the_display_says_that_the_unit_is_ready(config: Config, tmp_path: Path) -> None:
    shown = tmp_path / "shown.txt"
    shown.write_text("come in")
    assert outputs_off(config) == []
    assert outputs_off(changed(config, tmp_path, feedback={"text": str(shown)})) == []
    assert shown.read_text().strip() == TEXTS["ready"]
    nowhere = tmp_path / "nowhere" / "shown.txt"
    (problem,) = outputs_off(changed(config, tmp_path, feedback={"text": str(nowhere)}))
    assert problem.startswith("feedback.text: ")
    assert str(nowhere.parent) in problem


def test_a_unit_that_reports_to_no_controller_has_no_card_numbers(config: Config) -> None:
    with pytest.raises(RefusedError) as refused:
        card_number(config, secrets.token_bytes, SubjectId(bytes(16)))
    assert str(refused.value) == "this unit reports to no controller: add an output of kind osdp first"


def test_what_is_held_is_told_and_of_nobody_nothing(config: Config, people: list[SubjectId]) -> None:
    everything, damaged = listing(config, CLOCK)
    assert ({one.subject for one in everything}, damaged) == (set(people), 0)
    assert held(config, CLOCK, people[0]).subject == people[0]
    with pytest.raises(RefusedError) as refused:
        held(config, CLOCK, SubjectId(bytes(16)))
    assert str(refused.value) == "nothing is held about this subject at this unit: check the id"


def test_whom_is_named_is_erased_in_that_order_and_who_is_left_with_everybody(
    config: Config, people: list[SubjectId]
) -> None:
    first, second, third = people
    named = erase(config, CLOCK, secrets.token_bytes, [second, first])
    assert [receipt.reason for receipt in named] == ["withdrawn", "withdrawn"]
    assert len({receipt.subject for receipt in named}) == 2
    assert [one.subject for one in listing(config, CLOCK)[0]] == [third]
    again = erase(config, CLOCK, secrets.token_bytes, [second])
    assert again == named[:1], "asked again, the same"
    (rest,) = erase(config, CLOCK, secrets.token_bytes, None)
    assert rest.reason != "withdrawn"
    assert listing(config, CLOCK) == ((), 0)
    kinds = [entry.kind for entry in read_entries(config.audit.path)]
    assert kinds.count("erased") == 3
