# SPDX-License-Identifier: Apache-2.0
"""What a site says by command, said at a unit that is stopped: ``postern unit confirm``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.audit.chain import read_entries
from agent.cli import main
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.unit.doctor import examine
from tests.simulators.unit_life import enrol, opened, write_unit


def test_files_that_were_put_back_are_confirmed_by_hand_with_a_reason_for_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file, clock = tmp_path / "unit", tmp_path / "config.yaml", SystemClock()
    config = write_unit(file, folder)
    command = ["unit", "confirm", "files", "-c", str(file)]
    with opened(config, clock) as stores:
        enrol(stores, config, clock, np.random.default_rng(1))
    assert main([*command, "--reason", "a test"]) == RefusedError.exit_status
    assert "no file of this unit was put back" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "backup")
    with opened(config, clock) as stores:
        enrol(stores, config, clock, np.random.default_rng(2))
    shutil.copy(tmp_path / "backup" / "gallery.db", folder / "gallery.db")
    shutil.copy(tmp_path / "backup" / "kek", folder / "kek")
    assert main(command) == RefusedError.exit_status
    assert "give a reason" in capsys.readouterr().err
    assert main([*command, "--reason", "the card was exchanged"]) == 0
    assert "confirmed: " in capsys.readouterr().out
    with opened(config, clock) as stores:
        assert not stores.generation.doubted()
    (told,) = [entry.facts for entry in read_entries(config.audit.path) if entry.kind == "confirmed"]
    assert (told["what"], told["reason"]) == ("files", "the card was exchanged")
    found = [(one.state, one.text) for one in examine("state", config, clock)]
    assert found[0] == ("ok", "no file was put back to an older state")


def test_the_time_is_confirmed_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    new = "a new unit: nothing is destroyed for its age before a day of running"
    assert [one.text for one in examine("state", config, SystemClock())] == ["nothing was kept yet", new]
    with opened(config, SystemClock()):
        pass
    assert main(["unit", "confirm", "time", "-c", str(tmp_path / "config.yaml")]) == 0
    assert "confirmed: " in capsys.readouterr().out
    assert [entry.facts["what"] for entry in read_entries(config.audit.path) if entry.kind == "confirmed"] == ["time"]
