# SPDX-License-Identifier: Apache-2.0
"""What tools/arm64 says of another machine: a difference is told and fails, and what is counted is the product."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tools.lib.arm64 import instructions, outputs
from tools.lib.arm64.counter import CounterError, Instructions
from tools.lib.arm64.outputs import Difference

pytestmark = pytest.mark.timeout(300)  # it draws scenes, on a machine that may be busy

ROOT = Path(__file__).parents[2]


class Ticks(Instructions):
    """Counts its own readings: one instruction each."""

    def __init__(self) -> None:
        self.count = 0

    def read(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outputs") / "here.npz"
    assert outputs.write(path) == 0
    return path


def test_the_same_machine_answers_the_same(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outputs.compare(written) == 0
    told = capsys.readouterr().out
    assert told.count("equal bit for bit") == len(told.splitlines()) - 1 >= 6
    assert "differ" not in told


def test_one_other_value_of_a_model_is_told_and_fails(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(written) as stored:
        arrays = dict(stored.items())
    name = next(name for name in arrays if name.startswith("out/embedder/crop/"))
    arrays[name] = arrays[name].copy()
    arrays[name][0, 5] += 2 if arrays[name][0, 5] < 100 else -2
    other = tmp_path / "other.npz"
    np.savez(other, **arrays)
    assert outputs.compare(other) == 1
    assert "1 of" in (told := capsys.readouterr().out)
    assert "differ, by 2 at most" in told


def test_every_model_answers_to_the_golden_picture_and_to_scenes(written: Path) -> None:
    with np.load(written) as stored:
        inputs = [name.split("/", 2)[1:] for name in stored if name.startswith("in/")]
    models = {model for model, _ in inputs}
    assert {entry.name for entry in outputs.load_manifest(outputs.MANIFEST).entries} == models
    for model in models:
        of_model = [picture for other, picture in inputs if other == model]
        assert "golden" in of_model
        assert len(of_model) > 4


def test_floats_may_be_rounded_otherwise_and_integers_may_not() -> None:
    ones = np.linspace(-0.3, 0.3, 128, dtype=np.float32)
    for off, none in ((1e-7, True), (1e-5, False)):
        apart = Difference()
        apart.add("out", ones + np.float32(off), ones)
        assert apart.none is none
        assert ("but for the rounding" in apart.words()) is none
    apart = Difference()
    apart.add("out", np.array([100, 7], np.int8), np.array([100, 8], np.int8))
    assert not apart.none


def test_what_is_absent_or_of_another_shape_is_a_difference() -> None:
    apart = Difference()
    apart.add("gone", None, np.zeros(3, np.int8))
    apart.add("other", np.zeros(4, np.int8), np.zeros(3, np.int8))
    assert not apart.none
    assert "absent or of another shape: gone, other" in apart.words()


def test_a_clip_costs_each_stage_and_nobody_is_matched(tmp_path: Path) -> None:
    pytest.importorskip("av")
    instructions.make_clips(tmp_path)
    spent = instructions.frames(Ticks(), tmp_path / instructions.DOOR_CLIP)
    assert {"camera", "change", "read", "detect", "track", "align", "embed", "compare", "whole"} == set(spent)
    assert len(spent["camera"]) == len(spent["whole"])
    assert len(spent["whole"]) / 2 <= len(spent["detect"]) < len(spent["whole"]), (
        "who stands is not looked at each time"
    )
    assert len(spent["embed"]) >= 1, "an attempt far from any match takes three crops, of which two warm up"
    assert set(spent["embed"]) == {1}
    assert min(spent["whole"]) >= 1
    idle = instructions.frames(Ticks(), tmp_path / instructions.IDLE_CLIP)
    assert len(idle["detect"]) < len(idle["change"]) / 3
    assert "embed" not in idle
    raw = instructions.frames(Ticks(), tmp_path / instructions.RAW_CLIP)
    assert len(raw["whole"]) == len(idle["whole"])


def test_a_processor_either_counts_or_says_that_it_does_not() -> None:
    try:
        with Instructions() as counter:
            first = counter.read()
            sum(range(1000))
            assert counter.read() - first > 1000
    except CounterError as error:
        assert "no counter of instructions here" in str(error)  # noqa: PT017 - one of two right answers


@pytest.mark.parametrize("words", [["nonsense"], ["outputs", "nonsense"]])
def test_an_unknown_part_is_named_before_anything_is_made(words: list[str]) -> None:
    done = subprocess.run([ROOT / "tools" / "arm64", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "arm64: there is no part nonsense; there are outputs, tests, bench and instructions\n"
