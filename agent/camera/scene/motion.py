# SPDX-License-Identifier: Apache-2.0
"""Where everybody is at a moment of a scene: keys of the script to numbers, pure functions of time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec

from agent.camera.scene.script import Cover, Person, PoseKey, SceneScript


class Placement(msgspec.Struct, frozen=True):
    """One person at one moment: pixels of the main picture, degrees, pixels per frame."""

    index: int
    x: float
    y: float
    face: float
    yaw: float
    pitch: float
    roll: float
    gain: float
    side: float
    blur: float
    covers: tuple[Cover, ...]
    speed: tuple[float, float]
    played: tuple[float, float, float]  # pose of the head that a tablet shows


def placements(script: SceneScript, time: float) -> list[Placement]:
    """List who is in the scene at ``time`` seconds, farthest first."""
    step = 1 / script.frames_per_second
    present = []
    for index, person in enumerate(script.people):
        if person.appears <= time < person.leaves:
            x, y, face = _place(script.seed, index, person, time)
            before_x, before_y, _ = _place(script.seed, index, person, max(time - step, 0.0))
            light = [(key.at, (key.gain, key.side)) for key in person.light]
            yaw, pitch, roll = _pose(person.pose, time)
            played = _pose(person.attack.plays if person.attack is not None else (), time)
            gain, side = eased(light, time, (1.0, 0.0))
            (blur,) = eased([(key.at, (key.radius,)) for key in person.blur], time, (0.0,))
            covers = tuple(cover for cover in person.covers if cover.start <= time < cover.end)
            speed = (x - before_x, y - before_y)
            present.append(Placement(index, x, y, face, yaw, pitch, roll, gain, side, blur, covers, speed, played))
    return present


def _pose(keys: Sequence[PoseKey], time: float) -> tuple[float, float, float]:
    yaw, pitch, roll = eased([(key.at, (key.yaw, key.pitch, key.roll)) for key in keys], time, (0.0, 0.0, 0.0))
    return yaw, pitch, roll


def scene_gain(script: SceneScript, time: float) -> float:
    return eased([(key.at, (key.gain,)) for key in script.light], time, (1.0,))[0]


def eased(
    keys: Sequence[tuple[float, tuple[float, ...]]], time: float, default: tuple[float, ...]
) -> tuple[float, ...]:
    """Values at ``time``: still before the first and after the last key, smoothstep between two."""
    if not keys:
        return default
    if time <= keys[0][0]:
        return keys[0][1]
    for (start, first), (end, second) in itertools.pairwise(keys):
        if time < end:
            share = (time - start) / (end - start)
            share *= share * (3 - 2 * share)
            return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))
    return keys[-1][1]


def _place(seed: int, index: int, person: Person, time: float) -> tuple[float, float, float]:
    x, y, face = eased([(key.at, (key.x, key.y, key.face)) for key in person.path], time, ())
    phase = 2.4 * index + 0.7 * (seed % 97)
    reach = person.sway * face
    x += reach * (math.sin(1.9 * time + phase) + 0.4 * math.sin(5.1 * time + 2 * phase))
    y += 0.5 * reach * math.sin(2.7 * time + 1.3 * phase)
    return x, y, face
