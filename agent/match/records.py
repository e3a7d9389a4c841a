# SPDX-License-Identifier: Apache-2.0
"""What flows through matching. Only a ``Match`` can become an event, and it has no field for a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

import numpy as np
from numpy.typing import NDArray

SubjectId = NewType("SubjectId", bytes)  # 16 random bytes, made at enrolment


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class References:
    """The gallery in memory: row i of ``matrix`` (float32, n x 128, unit rows) belongs to ``subjects[i]``."""

    subjects: tuple[SubjectId, ...]
    matrix: NDArray[np.float32]
    model: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """The best reference for one probe: its comparison score and lead over the second-best subject."""

    subject: SubjectId
    score: float
    margin: float


@dataclass(frozen=True, slots=True)
class Match:
    """An enrolled person was recognised. Nothing else about the probe survives."""

    subject: SubjectId
    zone: str
    timestamp_ns: int
