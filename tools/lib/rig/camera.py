# SPDX-License-Identifier: Apache-2.0
"""A camera that shows a scene and can be unplugged: what happens before it goes on, and nobody sees it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from functools import partial
from typing import Self

from agent.camera.base import Camera, CameraInfo, Frame, RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import SceneScript
from agent.camera.source import Source
from agent.camera.supervise import CameraNotice, LatestFrame, Supervised
from agent.clock import Clock
from agent.config.camera import CameraSettings
from agent.errors import CameraLostError
from tools.lib.rig.obedient import Obedient


class SceneView:
    """A scene that began at a moment of the clock, and whether a camera is plugged in to see it."""

    def __init__(
        self, script: SceneScript, clock: Clock, *, plugged: Callable[[], bool], began_ns: int | None = None
    ) -> None:
        self.script, self.clock, self.plugged = script, clock, plugged
        self.renderer = SceneRenderer(script)
        self.obedient = Obedient()
        self._began_ns = began_ns

    def began_ns(self) -> int:
        """When the scene began: at the first look, where nobody said otherwise."""
        if self._began_ns is None:
            self._began_ns = self.clock.monotonic_ns()
        return self._began_ns


class UnpluggableCamera:
    """Implements ``agent.camera.base.Camera``, live; a new one sees the scene as it is by then."""

    def __init__(self, view: SceneView, lores_size: tuple[int, int]) -> None:
        self._view, self._lores_size = view, lores_size

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def info(self) -> CameraInfo:
        width, height = self._view.script.size
        return CameraInfo("scene", width, height, self._view.script.frames_per_second, live=True)

    def frames(self) -> Iterator[Frame]:
        """Frames of the scene, each at its time; after the script's end its last one stands still."""
        view, clock = self._view, self._view.clock
        began_ns, period_ns = view.began_ns(), 1e9 / view.script.frames_per_second
        number = -(-(clock.monotonic_ns() - began_ns) // round(period_ns))
        while True:
            due_ns = began_ns + round(number * period_ns)
            early_ns = due_ns - clock.monotonic_ns()
            if early_ns > 0:
                clock.sleep(early_ns / 1e9)
            self._check()
            asked = view.obedient.pose(due_ns / 1e9)
            at = min(number, view.script.frame_count - 1)
            main = RgbPicture(view.renderer.frame(at, asked))
            lores = partial(main.shrunk, (0, 0, *view.script.size), self._lores_size)
            yield Frame(number, due_ns, lores, main, relief=view.renderer.relief(at))
            number += 1

    def _check(self) -> None:
        if not self._view.plugged():
            raise CameraLostError("the camera gives no pictures: somebody unplugged it")


def source_of(
    view: SceneView, *, threaded: bool, random: Callable[[int], bytes] = secrets.token_bytes
) -> Callable[..., Source]:
    """What ``World.open_source`` takes: the view behind the supervision that every live camera has."""

    def open_source(
        settings: CameraSettings,
        *,
        lores_size: tuple[int, int],
        clock: Clock,
        on_notice: Callable[[CameraNotice], None],
    ) -> Source:
        del settings

        def make() -> Camera:
            return UnpluggableCamera(view, lores_size)

        camera = Supervised(make, clock=clock, random=random, on_notice=on_notice)
        return Source(LatestFrame(camera) if threaded else camera)

    return open_source
