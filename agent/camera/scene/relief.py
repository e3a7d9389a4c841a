# SPDX-License-Identifier: Apache-2.0
"""What a depth camera would say of a scene: how far noses stand out. A stand-in for a camera that no unit has yet."""

from __future__ import annotations

from collections.abc import Sequence

from agent.camera.scene.motion import Placement
from agent.camera.scene.script import Person

# Eye distances from the plane of eyes and mouth to the tip of the nose, of people and of what is held before a camera.
HEAD = 0.35
ATTACKS = {"print": 0.0, "tablet": 0.0, "bent": 0.1, "mask": 0.0}  # a mask of paper has no nose


def relief(people: Sequence[Person], present: Sequence[Placement], box: Sequence[float]) -> float | None:
    """Of the nearest one in ``present`` (farthest first) whose middle is in ``box`` (x0, y0, x1, y1, pixels)."""
    x0, y0, x1, y1 = box
    for placement in reversed(present):
        if x0 <= placement.x <= x1 and y0 <= placement.y <= y1:
            attack = people[placement.index].attack
            return HEAD if attack is None else ATTACKS[attack.kind]
    return None
