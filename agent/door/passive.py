# SPDX-License-Identifier: Apache-2.0
"""The passive part of liveness: what a small network makes of a face and of what surrounds it.

It sees two square cuts of a frame, 2.7 and 4 face sizes wide, as its teachers do (Silent-Face, minivision): the rim of
a sheet or a screen, hands, glare, colours of ink. Alone it is weak, and it was never measured on a real attack
(models/README.md): it may refuse whom the challenge passed and never passes anybody by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agent.camera.base import Picture, Rgb
from agent.door.challenge import Challenge

SIDE = 80  # pixels of a side of each cut
REACHES = (2.7, 4.0)  # sides of the cuts, in face sizes (root of the box's area); of the teachers
LEAST_SIDE = SIDE  # pixels of the frame: a smaller cut has nothing to see
MIN_LOOKS, MAX_LOOKS = 4, 12  # during a challenge: one before each turn and after the last at least; bounds the cost
REST_NS = 250_000_000  # 0.25 s between two looks: frames that follow at once say the same


def cuts(picture: Picture, box: Sequence[float]) -> Rgb | None:
    """Both cuts around a face's box (x0, y0, x1, y1), one above the other: uint8 (160, 80, 3).

    A cut that is larger than the picture shrinks to it, one that reaches over its edge is moved inside, as the
    teachers have it. None where the box is none, or too small to see anything.
    """
    x0, y0, x1, y1 = box
    area = (x1 - x0) * (y1 - y0)
    if not (x1 > x0 and y1 > y0 and math.isfinite(area)):
        return None
    parts = []
    for reach in REACHES:
        side = min(reach * math.sqrt(area), float(picture.width), float(picture.height))
        if side < LEAST_SIDE:
            return None
        left = min(max((x0 + x1 - side) / 2, 0.0), picture.width - side)
        top = min(max((y0 + y1 - side) / 2, 0.0), picture.height - side)
        parts.append(picture.scaled((left, top, left + side, top + side), SIDE))
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Passive:
    """A network: ``answer`` gives a logit for what ``cuts`` gives, and a mean of ``edge`` is enough."""

    answer: Callable[[Rgb], float]
    edge: float


@dataclass(frozen=True, slots=True)
class Looks:
    """What the network said during one challenge: how often, the sum of its logits, and when last."""

    count: int = 0
    total: float = 0.0
    last_ns: int | None = None

    def due(self, challenge: Challenge, now_ns: int) -> bool:
        """Whether to look now: the face looks ahead, the last look is a while ago, and there are some left."""
        rested = self.last_ns is None or now_ns - self.last_ns >= REST_NS
        return challenge.phase == "pause" and self.count < MAX_LOOKS and rested

    def after(self, passive: Passive, picture: Picture, box: Sequence[float], now_ns: int) -> Looks:
        """One look more, at a face's box; its cuts do not outlive this call. The same where there is nothing to see."""
        seen = cuts(picture, box)
        if seen is None:
            return self
        said = passive.answer(seen)
        seen.fill(0)
        return Looks(self.count + 1, self.total + said, now_ns)

    @property
    def mean(self) -> float:
        """Of the logits; minus infinity before the first look."""
        return self.total / self.count if self.count else -math.inf

    def passed(self, passive: Passive) -> bool:
        """Whether it saw enough, and found no attack; what is no number is no pass."""
        return self.count >= MIN_LOOKS and self.mean >= passive.edge
