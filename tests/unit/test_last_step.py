# SPDX-License-Identifier: Apache-2.0
"""The last step of an embedder takes what neighbours have in common, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from agent.embed.embedder import Embedder
from agent.errors import ModelError
from agent.inference.engine import Engine
from agent.inference.golden import picture
from agent.inference.manifest import load_manifest
from tools.lib.manifest import build_entry
from tools.lib.train.last_step import SHARE, SHARPNESS, centred

TOYS = Path(__file__).parents[1] / "assets" / "models" / "manifest.yaml"
FACTS = {"licence": "Apache-2.0", "training_data": "none"}


def listed(content: bytes) -> Engine:
    return Engine(build_entry(content, "toy.tflite", "toy", "embedding", **FACTS), content)


def toy(name: str = "toy-embedder") -> bytes:
    models = load_manifest(TOYS)
    return models.read(models.entry(name))


def means(count: int = 12, width: int = 128, seed: int = 0) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def crowd_of(count: int) -> list[NDArray[np.uint8]]:
    """Pictures that have most in common."""
    alike = picture(99, 112, 112).astype(np.float32)
    return [(0.7 * alike + 0.3 * picture(seed, 112, 112)).astype(np.uint8) for seed in range(count)]


def embedded(engine: Engine, seed: int) -> NDArray[np.float32]:
    return Embedder(engine).embed(picture(seed, 112, 112)).vector


@pytest.mark.parametrize("sharpness", [0.0, 5.0, SHARPNESS])
@pytest.mark.parametrize("share", [0.0, SHARE, 1.0])
def test_the_file_computes_what_its_document_says(sharpness: float, share: float) -> None:
    """Against the formula in float64, over pictures and means that lie anywhere and near the vectors."""
    plain = listed(toy())
    near = np.stack([embedded(plain, seed) for seed in range(4)])
    regions = np.concatenate([means(), near])
    engine = listed(centred(toy(), regions, sharpness=sharpness, share=share))
    for seed in range(6):
        unit = embedded(plain, seed).astype(np.float64)
        weights = np.exp(sharpness * (regions @ unit))
        expected = unit - share * (weights / weights.sum()) @ regions
        assert np.abs(engine.run(picture(seed, 112, 112))["embedding"][0] - expected).max() < 1e-5


def test_nothing_taken_leaves_every_vector_as_it_was() -> None:
    plain, engine = listed(toy()), listed(centred(toy(), means(), share=0.0))
    for seed in range(6):
        assert np.allclose(embedded(engine, seed), embedded(plain, seed), atol=1e-6)


def test_strangers_of_a_crowded_region_come_out_less_alike_and_the_others_keep_apart() -> None:
    plain = listed(toy())
    crowd = np.stack([Embedder(plain).embed(one).vector for one in crowd_of(12)])
    region = crowd.mean(0) / np.linalg.norm(crowd.mean(0))
    engine = listed(centred(toy(), np.stack([region, *means()])))
    apart = np.stack([Embedder(engine).embed(one).vector for one in crowd_of(12)])
    pairs = np.triu_indices(12, 1)
    assert (crowd @ crowd.T)[pairs].mean() > 0.5
    assert (apart @ apart.T)[pairs].mean() < (crowd @ crowd.T)[pairs].mean() - 0.2
    others = [np.stack([embedded(one, seed) for seed in range(6)]) for one in (plain, engine)]
    alike = [(each @ each.T)[np.triu_indices(6, 1)].mean() for each in others]
    assert abs(alike[1] - alike[0]) < 0.1


def test_a_centred_file_has_one_output_of_the_same_name_and_the_same_input() -> None:
    before, entry = listed(toy()).entry, listed(centred(toy(), means())).entry
    assert entry.input == before.input
    assert list(entry.outputs) == ["embedding"]
    assert (entry.outputs["embedding"].dtype, entry.outputs["embedding"].shape) == ("float32", (1, 128))
    assert entry.digest != before.digest


@pytest.mark.parametrize("name", ["toy-detector", "toy-embedder-float"])
def test_what_has_no_int8_vector_is_not_centred(name: str) -> None:
    with pytest.raises((ModelError, ValueError)):
        centred(toy(name), means())


def test_neither_twice_nor_with_means_of_another_length() -> None:
    with pytest.raises(ModelError, match="cannot be centred"):
        centred(centred(toy(), means()), means())
    with pytest.raises(ModelError, match="no int8 vector of 64 numbers"):
        centred(toy(), means(width=64))


def elsewhere(engine: Engine, runtime: str, *, off: float = 0.0) -> None:
    """The self-test as if the entry had been listed on ``runtime``, ``off`` of the largest value away."""
    (golden,) = engine.entry.golden.outputs.values()
    largest = max(abs(value) for value in golden.sample)
    sample = tuple(value + off * largest for value in golden.sample)
    outputs = {"embedding": replace(golden, crc32=golden.crc32 ^ 1, sample=sample)}
    engine.entry = replace(engine.entry, golden=replace(engine.entry.golden, runtime=runtime, outputs=outputs))
    assert not engine.self_test()


@pytest.mark.parametrize("off", [0.0, 0.045])
def test_another_runtime_may_be_steps_of_the_integer_layers_off(off: float) -> None:
    elsewhere(listed(centred(toy(), means())), "tflite-runtime 2.14.0 delegate", off=off)


@pytest.mark.parametrize(("same", "off"), [(True, 0.011), (False, 0.055), (False, 0.3)])
def test_what_computes_something_else_is_refused_wherever_it_runs(same: bool, off: float) -> None:
    engine = listed(centred(toy(), means()))
    with pytest.raises(ModelError, match="too far from the listed result"):
        elsewhere(engine, engine.runtime if same else "tflite-runtime 2.14.0 delegate", off=off)
