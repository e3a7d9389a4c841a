# SPDX-License-Identifier: Apache-2.0
"""Somebody who turns the head as the door asks: a moment after being asked, smoothly, as far as they like."""

from __future__ import annotations

import math

from agent.door.challenge import Prompt

REACTION_S = 0.4  # from being asked to the first movement
SPEED = 70.0  # degrees a second at most: an easy turn of the head
SETTLE = 8.0  # how fast what is left of the way is made, a second
YAW, PITCH = 42.0, 33.0  # degrees, of a head that is asked to look aside, up or down

_TARGETS: dict[Prompt | None, tuple[float, float]] = {"left": (1, 0), "right": (-1, 0), "up": (0, -1), "down": (0, 1)}


class Obedient:
    """Told by ``prompt`` what to do, says by ``pose`` how the head is held at a moment, seconds, never earlier ones."""

    def __init__(self, *, yaw: float = YAW, pitch: float = PITCH, reaction_s: float = REACTION_S) -> None:
        self._reach, self._reaction_s = (yaw, pitch), reaction_s
        self._asked: Prompt | None = None
        self._heard_s: float | None = None
        self._now_s = 0.0
        self._at = (0.0, 0.0)
        self._to = (0.0, 0.0)

    def prompt(self, prompt: Prompt | None) -> None:
        """The door shows something else from now on."""
        self._asked, self._heard_s = prompt, self._now_s

    def pose(self, time_s: float) -> tuple[float, float]:
        """Yaw and pitch in degrees."""
        step_s, self._now_s = max(0.0, time_s - self._now_s), time_s
        if self._heard_s is not None and time_s - self._heard_s >= self._reaction_s:
            way = _TARGETS.get(self._asked, (0.0, 0.0))
            self._to, self._heard_s = (way[0] * self._reach[0], way[1] * self._reach[1]), None
        self._at = (_nearer(self._at[0], self._to[0], step_s), _nearer(self._at[1], self._to[1], step_s))
        return self._at


def _nearer(at: float, to: float, step_s: float) -> float:
    way = (to - at) * (1 - math.exp(-SETTLE * step_s))
    most = SPEED * step_s
    return at + min(most, max(-most, way))
