# SPDX-License-Identifier: Apache-2.0
"""The embedder on a small real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.embed.embedder import Embedder, load_embedder
from agent.errors import ModelError
from agent.inference import golden

MANIFEST = Path(__file__).parents[1] / "assets" / "models" / "manifest.yaml"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return load_embedder(MANIFEST, "toy-embedder")


def crop(seed: int) -> np.ndarray:
    return golden.picture(seed, 112, 112)


def test_embedding_has_unit_length_and_carries_the_model(embedder: Embedder) -> None:
    embedding = embedder.embed(crop(1))
    assert embedding.vector.shape == (128,)
    assert embedding.vector.dtype == np.float32
    assert float(embedding.vector @ embedding.vector) == pytest.approx(1, abs=1e-5)
    assert embedding.model == embedder.model == embedder.engine.digest
    assert embedding.model.startswith("sha256:")


def test_same_crop_gives_the_same_embedding_and_another_a_different_one(embedder: Embedder) -> None:
    first, again, other = (embedder.embed(crop(seed)).vector for seed in (1, 1, 2))
    assert (first == again).all()
    assert float(first @ other) < 0.9


def test_wiping_an_embedding_leaves_the_next_one_alone(embedder: Embedder) -> None:
    first = embedder.embed(crop(1))
    before = first.vector.copy()
    first.wipe()
    assert not first.vector.any()
    assert (embedder.embed(crop(1)).vector == before).all()


@pytest.mark.parametrize("name", ["toy-embedder", "toy-embedder-float"])
def test_a_crop_that_differs_little_stays_near(name: str) -> None:
    model, near = load_embedder(MANIFEST, name), crop(1).copy()
    near[:4, :4] = 0
    assert float(model.embed(crop(1)).vector @ model.embed(near).vector) > 0.95


def test_detector_is_refused_as_embedder() -> None:
    with pytest.raises(ModelError, match="is no embedder"):
        load_embedder(MANIFEST, "toy-detector")
