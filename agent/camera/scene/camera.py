# SPDX-License-Identifier: Apache-2.0
"""A simulated camera: plays a scene's script, the same bytes each time, on whatever clock it is given.

On a ``SimulatedClock`` a scene runs as fast as it can be drawn and moves the clock along; on the system's clock
it keeps the script's pace. It is not live: it waits for its consumer and drops nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import SceneScript, load_script
from agent.clock import Clock


class SceneCamera:
    """Implements ``Camera``; raises ConfigError for a script that is not acceptable."""

    def __init__(
        self, script: Path | SceneScript, *, lores_size: tuple[int, int], clock: Clock, loop: bool = False
    ) -> None:
        """``loop``: the scene starts again at its end, time going on."""
        self._script = load_script(script) if isinstance(script, Path) else script
        self._loop = loop
        self._lores_size = lores_size
        self._clock = clock
        self._renderer: SceneRenderer | None = None

    def __enter__(self) -> Self:
        self._renderer = SceneRenderer(self._script)
        return self

    def __exit__(self, *_: object) -> None:
        self._renderer = None

    def info(self) -> CameraInfo:
        width, height = self._script.size
        return CameraInfo("scene", width, height, self._script.frames_per_second, live=False)

    def frames(self) -> Iterator[Frame]:
        """All frames of the scene, once or for ever; frame n is due n frame times after the first."""
        if self._renderer is None:
            raise ValueError("the camera is not open")
        start = self._clock.monotonic_ns()
        count = self._script.frame_count
        for number in itertools.count() if self._loop else range(count):
            due = start + round(number * 1e9 / self._script.frames_per_second)
            early = due - self._clock.monotonic_ns()
            if early > 0:
                self._clock.sleep(early / 1e9)
            main = RgbPicture(self._renderer.frame(number % count))
            lores = partial(main.shrunk, (0, 0, *self._script.size), self._lores_size)
            yield Frame(number, due, lores, main, relief=self._renderer.relief(number % count))
