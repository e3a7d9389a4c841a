# SPDX-License-Identifier: Apache-2.0
"""What is required of a face beside the challenge: parts that look at it while it looks ahead, and may refuse.

A part gives a number for each look, and the mean of some looks is enough or is not. Parts only ever refuse: with all of
them satisfied a face that failed its challenge has failed (``agent.door.liveness``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from agent.camera.base import Frame
from agent.door.challenge import Challenge

MIN_LOOKS, MAX_LOOKS = 4, 12  # during a challenge: one before each turn and after the last at least; bounds the cost
REST_NS = 250_000_000  # 0.25 s between two looks: frames that follow at once say the same


class Part(msgspec.Struct, frozen=True):
    """``look`` takes a frame and a face's box (x0, y0, x1, y1, pixels of its main picture); None: nothing was to see.

    A mean of ``edge`` over the looks of a challenge is enough.
    """

    look: Callable[[Frame, Sequence[float]], float | None]
    edge: float


class Looks(msgspec.Struct, frozen=True):
    """What one part said during one challenge: how often, the sum of it, and when last."""

    count: int = 0
    total: float = 0.0
    last_ns: int | None = None

    def due(self, challenge: Challenge, now_ns: int) -> bool:
        """Whether to look now: the face looks ahead, the last look is a while ago, and there are some left."""
        rested = self.last_ns is None or now_ns - self.last_ns >= REST_NS
        return challenge.phase == "pause" and self.count < MAX_LOOKS and rested

    def after(self, part: Part, frame: Frame, box: Sequence[float]) -> Looks:
        """One look more; the same where there was nothing to see."""
        said = part.look(frame, box)
        return self if said is None else Looks(self.count + 1, self.total + said, frame.timestamp_ns)

    @property
    def mean(self) -> float:
        """Minus infinity before the first look."""
        return self.total / self.count if self.count else -math.inf

    def passed(self, part: Part) -> bool:
        """Whether it saw enough, and that was enough; what is no number is no pass."""
        return self.count >= MIN_LOOKS and self.mean >= part.edge
