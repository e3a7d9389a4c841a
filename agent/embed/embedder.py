# SPDX-License-Identifier: Apache-2.0
"""From an aligned crop to a unit-length embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.embed.records import CROP_SIZE, EMBEDDING_DIM, Crop, Embedding
from agent.errors import ModelError
from agent.inference.engine import Engine, load_engine
from agent.inference.manifest import Manifest

SMALLEST_NORM = 1e-6  # an all-zero answer stays zero and so matches nobody


class Embedder:
    """An embedder model. Single-threaded, like its engine."""

    def __init__(self, engine: Engine) -> None:
        """Raise ModelError when the model is no embedder of 112x112 crops to 128 numbers."""
        entry = engine.entry
        size = (entry.input.width, entry.input.height)
        if entry.task != "embedder" or size != (CROP_SIZE, CROP_SIZE) or entry.embedding_dim != EMBEDDING_DIM:
            raise ModelError(
                f"model {entry.name} is no embedder of {CROP_SIZE}x{CROP_SIZE} crops to {EMBEDDING_DIM} numbers"
            )
        self.engine = engine

    @property
    def model(self) -> str:
        """The digest that embeddings carry, ``sha256:…``."""
        return self.engine.digest

    def embed(self, crop: Crop) -> Embedding:
        """Return the embedding of a crop, uint8 (112, 112, 3) RGB."""
        vector: NDArray[np.float32] = self.engine.dequantise("embedding", self.engine.run(crop)["embedding"])[0]
        vector /= np.float32(max(float(np.sqrt(vector @ vector)), SMALLEST_NORM))
        return Embedding(vector, self.engine.digest)


def load_embedder(manifest: Path | Manifest, name: str, threads: int = 1) -> Embedder:
    """Load a listed embedder, verified and self-tested; raises ModelError."""
    return Embedder(load_engine(manifest, name, threads=threads))
