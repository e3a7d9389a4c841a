# SPDX-License-Identifier: Apache-2.0
"""Model files that were swapped, damaged, or that say more about people than the product may know."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.errors import ModelError
from agent.inference.engine import Engine
from agent.inference.manifest import Manifest, ModelEntry, load_manifest

MODELS = Path(__file__).parents[1] / "assets" / "models"


def listed(name: str = "toy-embedder") -> ModelEntry:
    return load_manifest(MODELS / "manifest.yaml").entry(name)


def content(name: str = "toy-embedder") -> bytes:
    return (MODELS / f"{name}.tflite").read_bytes()


def relisted(content: bytes, entry: ModelEntry | None = None) -> ModelEntry:
    """The entry of somebody who swapped the file and its digest, but not what the file is said to do."""
    digest = hashlib.sha256(content).hexdigest()
    return msgspec.structs.replace(entry or listed(), size=len(content), sha256=digest)


def changed(entry: ModelEntry, part: str, **fields: Any) -> ModelEntry:
    if part == "outputs":
        outputs = {name: msgspec.structs.replace(spec, **fields) for name, spec in entry.outputs.items()}
        return msgspec.structs.replace(entry, outputs=outputs)
    return msgspec.structs.replace(entry, **{part: msgspec.structs.replace(getattr(entry, part), **fields)})


def read(folder: Path, entry: ModelEntry) -> bytes:
    return Manifest(folder, (entry,)).read(entry)


def load(swapped: bytes) -> Engine:
    return Engine(relisted(swapped), swapped)


def test_unverified_bytes_never_reach_the_interpreter() -> None:
    with pytest.raises(ModelError, match="was altered"):
        Engine(listed(), content()[:-1] + b"?")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read .*toy-embedder\.tflite: No such file"):
        read(tmp_path, listed())


def test_truncated_file_is_refused_before_loading(tmp_path: Path) -> None:
    (tmp_path / "toy-embedder.tflite").write_bytes(content()[:-1])
    with pytest.raises(ModelError, match="truncated"):
        read(tmp_path, listed())


@pytest.mark.parametrize("position", [40, 9000, -1])
def test_single_flipped_bit_is_refused_before_loading(tmp_path: Path, position: int) -> None:
    altered = bytearray(content())
    altered[position] ^= 1
    (tmp_path / "toy-embedder.tflite").write_bytes(altered)
    with pytest.raises(ModelError, match="was altered"):
        read(tmp_path, listed())


def test_appended_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "toy-embedder.tflite").write_bytes(content() + b"\0")
    with pytest.raises(ModelError, match="was altered"):
        read(tmp_path, listed())


def test_another_listed_model_under_this_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy-embedder.tflite").write_bytes(content("toy-detector"))
    with pytest.raises(ModelError, match=r"truncated|altered"):
        read(tmp_path, listed())


def test_model_with_a_hidden_age_output_is_refused() -> None:
    with pytest.raises(ModelError, match="the output 'age', which its manifest entry does not list"):
        load((MODELS / "hostile-age.tflite").read_bytes())


def test_model_with_a_second_entry_point_is_refused() -> None:
    with pytest.raises(ModelError, match="several entry points"):
        load((MODELS / "hostile-two-entry-points.tflite").read_bytes())


def test_weights_changed_together_with_their_digest_fail_the_self_test() -> None:
    altered = bytearray(content())
    weights = max(range(0, len(altered) - 4096, 512), key=lambda i: len(set(altered[i : i + 4096])))
    for i in range(weights, weights + 4096, 2):
        altered[i] ^= 0x40
    engine = load(bytes(altered))
    with pytest.raises(ModelError, match="self-test"):
        engine.self_test()


@pytest.mark.parametrize(
    "garbage", [b"T", b"TFL3", bytes(1000), content()[:2000]], ids=["byte", "magic", "zeros", "cut"]
)
def test_bytes_that_are_no_model_are_one_clear_error(garbage: bytes) -> None:
    with pytest.raises(ModelError, match=r"model toy-embedder: ai-edge-litert .* cannot load it"):
        load(garbage)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("input", {"shape": (1, 96, 112, 3)}, "the input has the shape"),
        ("input", {"dtype": "int8"}, "the input is uint8, listed is int8"),
        ("input", {"scale": 0.01}, "quantised with scale"),
        ("input", {"zero_point": 127}, "zero point"),
        ("input", {"name": "picture"}, "listed as 'picture'"),
        ("outputs", {"shape": (1, 64)}, "output embedding has the shape"),
        ("outputs", {"dtype": "uint8"}, "output embedding is int8, listed is uint8"),
        ("outputs", {"scale": 0.5}, "output embedding is quantised"),
        ("outputs", {"tensor": "other"}, "the output 'embedding', which"),
    ],
)
def test_file_that_is_not_as_listed_is_refused(part: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Engine(changed(listed(), part, **fields), content())
