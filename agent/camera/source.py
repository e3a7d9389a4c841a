# SPDX-License-Identifier: Apache-2.0
"""The camera as the running unit sees it: live ones supervised and reduced to the newest frame, others as they are."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Self

from agent.camera.base import Camera, CameraInfo, Frame
from agent.camera.open import open_camera
from agent.camera.supervise import CameraNotice, LatestFrame, Supervised
from agent.clock import Clock
from agent.config.camera import CameraSettings, FileCamera, SceneCamera
from agent.errors import CameraLostError

IDLE_S = 0.5  # one wait for a frame


class Source:
    """A camera whose consumer gets a word in while no frame comes.

    ``while_waiting`` is called about twice a second then; when it answers False, ``frames`` ends.
    """

    def __init__(self, camera: Camera | LatestFrame) -> None:
        self._camera = camera
        self._open = ExitStack()
        self._entered = False
        self.while_waiting: Callable[[], bool] = lambda: True

    def __enter__(self) -> Self:
        self._open.enter_context(self._camera)
        self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def info(self) -> CameraInfo:
        """Facts of the camera; CameraLostError before it was reached."""
        if not self._entered:
            raise CameraLostError("the camera is not open yet")
        return self._camera.info()

    def known(self) -> CameraInfo | None:
        """Facts of the camera, once it was reached."""
        try:
            return self.info()
        except CameraLostError:
            return None

    def frames(self) -> Iterator[Frame]:
        if not isinstance(self._camera, LatestFrame):
            yield from self._camera.frames()
            return
        while True:
            frame = self._camera.take(IDLE_S)
            if frame is not None:
                yield frame
            elif not self.while_waiting():
                return


def open_source(
    settings: CameraSettings,
    *,
    lores_size: tuple[int, int],
    clock: Clock,
    on_notice: Callable[[CameraNotice], None],
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> Source:
    """The source that ``settings`` name; opens when entered. A file or scene that cannot be read raises at once."""

    def make() -> Camera:
        return open_camera(settings, lores_size=lores_size, clock=clock)

    if isinstance(settings, FileCamera | SceneCamera):
        return Source(make())
    return Source(LatestFrame(Supervised(make, clock=clock, random=random, on_notice=on_notice)))
