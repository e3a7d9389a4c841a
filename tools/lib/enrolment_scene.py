# SPDX-License-Identifier: Apache-2.0
"""The scene in which a demo person enrols, for every tool that enrols one."""

from __future__ import annotations

import msgspec

from agent.camera.scene.script import SceneScript
from agent.errors import ConfigError


def enrolment_script(
    person: str, *, size: tuple[int, int] = (1280, 720), frames_per_second: float = 10.0, duration: float = 6.5
) -> SceneScript:
    """``person`` presses the button and stands as enrolment asks: near, frontal, moving a little."""
    width, height = size
    middle = {"x": width / 2, "y": height * 0.42, "face": height * 0.3}
    turns = ((0.0, 0, 0), (1.2, 6, 0), (2.4, -6, 2), (3.6, 0, -5), (4.8, 0, 0))
    scene = {
        "size": size,
        "frames_per_second": frames_per_second,
        "duration": duration,
        "background": {"kind": "room", "variant": 3},
        "presses": [0.1],
        "people": [
            {
                "who": person,
                "path": [{"at": 0, **middle}],
                "pose": [{"at": duration * at / 5, "yaw": yaw, "pitch": pitch} for at, yaw, pitch in turns],
            }
        ],
    }
    try:
        return msgspec.convert(scene, SceneScript)
    except msgspec.ValidationError as error:
        raise ConfigError(f"no enrolment scene can be made for '{person}': {error}") from error
