# SPDX-License-Identifier: Apache-2.0
"""What flows through embedding: an aligned crop in, an embedding out. Neither has a way off the unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CROP_SIZE = 112  # pixels: the ArcFace template's side
EMBEDDING_DIM = 128

Crop = NDArray[np.uint8]  # (112, 112, 3) RGB, aligned


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embedding:
    """A unit-length float32 (128,) vector and the digest of the model it came from (``sha256:…``)."""

    vector: NDArray[np.float32]
    model: str

    def wipe(self) -> None:
        """Overwrite the numbers; best effort, CPython may hold copies that nobody can reach."""
        self.vector.fill(0)
