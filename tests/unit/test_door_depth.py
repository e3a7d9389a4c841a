# SPDX-License-Identifier: Apache-2.0
"""The depth part: where a camera measures it, a face that does not stand out passes nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.camera import SceneCamera
from agent.camera.scene.script import Attack, PathKey, Person, SceneScript
from agent.clock import SimulatedClock
from agent.door.challenge import Prompt
from agent.door.depth import DEPTH
from agent.door.liveness import CheckedLiveness
from agent.protocol.subject import SubjectId
from tests.simulators.turning import FRAME_NS, obedient

ALICE = SubjectId(b"a" * 16)
BOX = (110.0, 70.0, 210.0, 170.0)


def scene(kind: str | None) -> Frame:
    """The first frame of a scene with a person, or with what is held before the camera."""
    attack = None if kind is None else Attack(kind=kind)  # type: ignore[arg-type]
    person = Person(who="person-01", path=(PathKey(at=0, x=160, y=120, face=100),), attack=attack)
    script = SceneScript(size=(320, 240), duration=1, frames_per_second=5, people=(person,))
    with SceneCamera(script, lores_size=(320, 240), clock=SimulatedClock()) as camera:
        return next(iter(camera.frames()))


@pytest.mark.parametrize(
    ("kind", "solid"), [(None, True), *((one, False) for one in ("print", "bent", "tablet", "mask"))]
)
def test_the_simulated_camera_tells_a_head_from_what_is_held_before_it(kind: str | None, solid: bool) -> None:
    frame = scene(kind)
    said = DEPTH.look(frame, BOX)
    assert said is not None
    assert (said >= DEPTH.edge) == solid
    assert DEPTH.look(frame, (0, 0, 20, 20)) is None, "nobody is there"
    frame.close()
    assert frame.relief is None, "what a frame measured dies with it"


@pytest.mark.parametrize(("relief", "passes"), [(0.35, True), (0.0, False), (None, False), ("no camera", False)])
def test_who_turns_as_asked_passes_only_with_a_face_that_stands_out(relief: float | str | None, passes: bool) -> None:
    shown: list[Prompt | None] = []
    check, pose = CheckedLiveness(random.Random(1).randbytes, shown.append, [DEPTH]), obedient()

    def measured(box: Sequence[float]) -> float | None:
        assert box == BOX
        return relief  # type: ignore[return-value]

    picture = RgbPicture(np.zeros((240, 320, 3), np.uint8))
    for number in range(300):
        now = number * FRAME_NS
        depth = None if relief == "no camera" else measured
        frame = Frame(number, now, picture.array, picture, relief=depth)
        watched, angles = check.watched is not None, pose(shown[-1] if shown else None)
        if watched:
            check.see(frame, BOX)
        check.look({1: ALICE}, angles if watched else None, now)
        if number and check.watched is None:
            break
    assert (check.vouch(1, ALICE) == "passed") == passes
