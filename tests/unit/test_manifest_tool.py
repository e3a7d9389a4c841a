# SPDX-License-Identifier: Apache-2.0
"""Dropping in a model: what the tool writes is what a unit accepts."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import msgspec
import pytest

from agent.errors import ModelError
from agent.inference.engine import Engine
from agent.inference.manifest import ModelEntry, load_manifest
from tools.lib.manifest import add_entry, build_entry, dump

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "assets" / "models"
FACTS = {"licence": "Apache-2.0", "training_data": "none"}


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.lib.manifest", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_a_model_is_dropped_in_and_checked(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    content = (MODELS / "toy-detector.tflite").read_bytes()
    add_entry(manifest, build_entry(content, "mine.tflite", "mine", "postern", score_threshold=0.7, **FACTS), content)
    models = load_manifest(manifest)
    entry = models.entry("mine")
    assert Engine(entry, models.read(entry)).self_test()
    assert (entry.score_threshold, entry.task, entry.input.shape) == (0.7, "detector", (1, 96, 160, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.yaml", "mine.tflite"]


def test_adding_again_replaces_the_entry_and_keeps_the_others(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    for name, decoder in (("toy-embedder", "embedding"), ("toy-detector", "postern"), ("toy-embedder", "embedding")):
        content = (MODELS / f"{name}.tflite").read_bytes()
        add_entry(manifest, build_entry(content, f"{name}.tflite", name, decoder, **FACTS), content)
    assert [entry.name for entry in load_manifest(manifest).entries] == ["toy-detector", "toy-embedder"]


def test_entries_in_the_repository_are_those_that_the_tool_would_write() -> None:
    for entry in load_manifest(MODELS / "manifest.yaml").entries:
        content = (MODELS / entry.file).read_bytes()
        again = build_entry(
            content,
            entry.file,
            entry.name,
            entry.decoder,
            licence=entry.licence,
            training_data=entry.training_data,
            created=entry.created,
            score_threshold=entry.score_threshold,
        )
        again = msgspec.structs.replace(again, golden=entry.golden)  # its runtime may be a later release
        assert written(again) == written(entry)


def written(entry: ModelEntry) -> str:
    return dump([msgspec.to_builtins(entry, builtin_types=(date,))])


def test_a_model_with_an_age_output_cannot_be_listed() -> None:
    content = (MODELS / "hostile-age.tflite").read_bytes()
    with pytest.raises(ModelError, match="refused because of the output 'age'"):
        build_entry(content, "age.tflite", "age", "embedding", **FACTS)


def test_an_output_may_have_another_name_in_the_file(tmp_path: Path) -> None:
    content = (MODELS / "toy-embedder.tflite").read_bytes().replace(b"embedding", b"identity0")
    with pytest.raises(ModelError, match="identity0"):
        build_entry(content, "other.tflite", "other", "embedding", **FACTS)
    entry = build_entry(content, "other.tflite", "other", "embedding", tensor_names={"embedding": "identity0"}, **FACTS)
    assert entry.outputs["embedding"].tensor == "identity0"
    add_entry(tmp_path / "manifest.yaml", entry, content)
    models = load_manifest(tmp_path / "manifest.yaml")
    Engine(models.entry("other"), models.read(models.entry("other"))).self_test()


def test_command_adds_checks_and_refuses(tmp_path: Path) -> None:
    manifest = tmp_path / "models" / "manifest.yaml"
    common = ["--manifest", manifest]
    added = tool(
        *common, "add", "--file", MODELS / "toy-embedder.tflite", "--name", "mine", "--decoder", "embedding",
        "--licence", "Apache-2.0", "--training-data", "none", "--metric", "size_mib=0.03", "--created", "2026-01-05",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert load_manifest(manifest).entry("mine").metrics == {"size_mib": 0.03}
    checked = tool(*common, "check")
    assert checked.returncode == 0
    assert "self-test exact" in checked.stdout
    (manifest.parent / "toy-embedder.tflite").write_bytes(b"short")
    broken = tool(*common, "check")
    assert broken.returncode == 2
    assert "truncated" in broken.stderr
    assert "Traceback" not in broken.stderr
