# SPDX-License-Identifier: Apache-2.0
"""The manifest reader: strict, bounded, one clear sentence per fault."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ModelError
from agent.inference.manifest import MAX_MANIFEST_BYTES, Manifest, load_manifest, parse_manifest

MODELS = Path(__file__).parents[1] / "assets" / "models"
HERE = Path("manifest.yaml")


DOCUMENT: dict[str, Any] = yaml.safe_load((MODELS / "manifest.yaml").read_text())


def document() -> dict[str, Any]:
    return copy.deepcopy(DOCUMENT)


def parse(data: dict[str, Any]) -> Manifest:
    return parse_manifest(msgspec.yaml.encode(data), HERE)


def refused(change: Any) -> str:
    data = document()
    change(data["models"][0])
    with pytest.raises(ModelError) as caught:
        parse(data)
    return str(caught.value)


def test_listed_models_are_found_by_name() -> None:
    manifest = load_manifest(MODELS / "manifest.yaml")
    entry = manifest.entry("toy-detector")
    assert (entry.task, entry.decoder, entry.input.width, entry.input.height) == ("detector", "postern", 160, 96)
    assert entry.weights == f"sha256:{entry.sha256}" != entry.digest
    assert len(manifest.read(entry)) == entry.size


def test_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="toy-detector, toy-embedder, toy-embedder-float"):
        load_manifest(MODELS / "manifest.yaml").entry("yunet")


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the model manifest .*absent\.yaml"):
        load_manifest(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Toy"),
        ("name", "a/b"),
        ("file", "../outside.tflite"),
        ("file", "/etc/passwd"),
        ("file", ".hidden"),
        ("sha256", "0" * 63),
        ("sha256", "A" * 64),
        ("size", 0),
        ("size", 2**40),
        ("task", "age"),
        ("decoder", "anything"),
        ("outputs", {}),
        ("score_threshold", 1.5),
        ("created", "yesterday"),
        ("surprise", 1),
        ("licence", ""),
    ],
)
def test_wrong_field_is_refused(field: str, value: object) -> None:
    assert refused(lambda entry: entry.update({field: value})).startswith(("manifest.yaml: ", "model toy-detector: "))


@pytest.mark.parametrize("field", ["sha256", "size", "file", "golden", "licence", "training_data", "input", "outputs"])
def test_entry_without_a_required_field_is_refused(field: str) -> None:
    assert field in refused(lambda entry: entry.pop(field))


def test_entry_with_an_output_for_age_is_refused_by_name() -> None:
    def change(entry: dict[str, Any]) -> None:
        entry["outputs"]["age"] = entry["outputs"]["score_8"]

    assert "refused because of the output 'age'" in refused(change)


def test_entry_without_an_output_of_its_decoder_is_refused() -> None:
    assert "'score_16' is missing" in refused(lambda entry: entry["outputs"].pop("score_16"))


def test_golden_record_must_cover_all_outputs() -> None:
    assert "golden" in refused(lambda entry: entry["golden"]["outputs"].pop("score_16"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    assert "finite" in refused(lambda entry: entry["input"].update(mean=[value, 0, 0]))


def test_second_look_must_be_a_listed_landmark_model() -> None:
    data = document()
    detector = next(one for one in data["models"] if one["task"] == "detector")
    for name in ("toy-embedder", "absent"):
        detector["landmarks"] = name
        with pytest.raises(ModelError, match=f"names {name} for its landmarks, which is not listed as such"):
            parse(data)


def test_only_a_detector_takes_a_second_look() -> None:
    data = document()
    embedder = next(one for one in data["models"] if one["task"] == "embedder")
    embedder["landmarks"] = "landmarks"
    with pytest.raises(ModelError, match="only a detector may name a model for its landmarks"):
        parse(data)


def test_zero_divisor_is_refused() -> None:
    assert "std" in refused(lambda entry: entry["input"].update(std=[1, 0, 1]))


def test_scale_must_fit_the_type() -> None:
    assert "scale 0" in refused(lambda entry: entry["input"].update(scale=0))


def test_input_must_be_one_colour_picture() -> None:
    assert "three channels" in refused(lambda entry: entry["input"].update(shape=[1, 96, 160, 1]))
    assert "three channels" in refused(lambda entry: entry["input"].update(shape=[2, 96, 160, 3]))


def test_name_listed_twice_is_refused() -> None:
    data = document()
    data["models"].append(data["models"][0])
    with pytest.raises(ModelError, match="listed twice"):
        parse(data)


def test_oversized_manifest_is_refused() -> None:
    with pytest.raises(ModelError, match="at most"):
        parse_manifest(b"#" * (MAX_MANIFEST_BYTES + 1), HERE)


def test_planes_first_layout_is_understood() -> None:
    data = document()
    data["models"][0]["input"].update(layout="NCHW", shape=[1, 3, 96, 160])
    assert parse(data).entries[0].input.width == 160


def test_decoding_survives_the_garbage_collector() -> None:
    # msgspec 0.22 corrupts memory for some unions of constrained types; the records here must not use them
    for _ in range(5):
        load_manifest(MODELS / "manifest.yaml")
        gc.collect()


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_a_model_error(content: bytes) -> None:
    with contextlib.suppress(ModelError):
        parse_manifest(content, HERE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def paths(value: object, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, item in items for p in ((*prefix, key), *paths(item, (*prefix, key)))]


PATHS = paths(document())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATHS), VALUES)
def test_any_value_in_any_place_is_accepted_or_a_model_error(path: tuple[Any, ...], value: object) -> None:
    data = document()
    target: Any = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    try:
        manifest = parse_manifest(msgspec.yaml.encode(data), HERE)
    except ModelError:
        return
    assert all(entry.input.width >= 1 for entry in manifest.entries)


def test_weights_that_training_goes_on_from_stay_small_in_the_repository() -> None:
    kept = {path.name: path.stat().st_size for path in (Path(__file__).parents[2] / "models" / "train").glob("*.pt")}
    assert {"detector.pt", "embedder.pt", "landmarks.pt", "liveness.pt"} <= set(kept)
    assert {name: size for name, size in kept.items() if size > 4_000_000} == {}, (
        "bytes; see tools/lib/train/checkpoints.py"
    )
