# SPDX-License-Identifier: Apache-2.0
"""The gallery in memory, as matching reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.protocol.subject import SubjectId


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class References:
    """The gallery in memory: row i of ``matrix`` (float32, n x 128, unit rows) belongs to ``subjects[i]``.

    ``carried``: it is no gallery's, but the one reference that somebody brought along.
    """

    subjects: tuple[SubjectId, ...]
    matrix: NDArray[np.float32]
    model: str
    carried: bool = False

    def only(self, subject: SubjectId) -> References:
        """The reference of one subject; none when there is none."""
        rows = [row for row, one in enumerate(self.subjects) if one == subject]
        return References(tuple(self.subjects[row] for row in rows), self.matrix[rows], self.model)
