# SPDX-License-Identifier: Apache-2.0
"""How long to measure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """``rounds`` turns of ``round_s`` seconds of processor time per case.

    ``passes`` are runs of the service over the clip of ``clip_s`` seconds, ``visits_s`` is how long people pass by
    in real time for the delays, ``idle_s`` how long nobody does, ``commits`` and ``events`` are counted in one round.
    """

    rounds: int
    round_s: float
    passes: int
    clip_s: float
    visits_s: float
    idle_s: float
    commits: int
    events: int


FULL = Effort(rounds=15, round_s=0.2, passes=5, clip_s=24, visits_s=64, idle_s=12, commits=200, events=200)
QUICK = Effort(rounds=5, round_s=0.05, passes=2, clip_s=8, visits_s=26, idle_s=5, commits=50, events=50)
