# SPDX-License-Identifier: Apache-2.0
"""What flows through matching. Only a ``Match`` can become an event, and it has no field for a score."""

from __future__ import annotations

from typing import Literal

import msgspec

from agent.protocol.subject import SubjectId

Liveness = Literal["passed", "failed", "not_checked"]
Method = Literal["face", "token"]  # against whom: all who enrolled here (or one of them), or a reference brought along


class Candidate(msgspec.Struct, frozen=True):
    """The best reference for one probe: its comparison score and lead over the second-best subject."""

    subject: SubjectId
    score: float
    margin: float


class Match(msgspec.Struct, frozen=True):
    """An enrolled person was recognised. Nothing else about the probe survives."""

    subject: SubjectId
    zone: str
    timestamp_ns: int
    liveness: Liveness = "not_checked"
    method: Method = "face"
