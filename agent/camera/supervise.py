# SPDX-License-Identifier: Apache-2.0
"""A live camera as the pipeline wants it: opened again until it is back, and never more than its newest frame.

``Supervised`` goes opening -> delivering -> lost -> opening ... Each loss gives one ``camera_lost`` and, with the
first frame after it, one ``camera_back``. ``LatestFrame`` moves the capturing to a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, dataclass, field
from threading import Condition, Event, Thread
from typing import Final, Literal, Self

import msgspec

from agent.camera.base import Camera, CameraInfo, Frame
from agent.clock import Bounds, Clock, full_jitter
from agent.errors import CameraLostError

REOPEN_S: Final = Bounds(0.0, 1.0, 30.0)  # a camera that reboots needs seconds; one that is back is noticed within 30
STABLE_S: Final = 10.0  # a camera that worked this long is tried again with short waits
STOP_POLL_S: Final = 0.1  # how often a wait looks whether it should stop; a stop must be through within a second
STOP_TIMEOUT_S: Final = 0.8  # FFmpeg cannot be interrupted within a read; then the thread is left to end by itself


class CameraNotice(msgspec.Struct, frozen=True):
    """The camera went away or came back; ``reason`` is for the log."""

    kind: Literal["camera_lost", "camera_back"]
    reason: str


@dataclass(eq=False)
class Supervised:
    """Opens cameras that ``camera_factory`` makes, one after the other; implements ``agent.camera.base.Camera``.

    Errors other than CameraLostError end it: trying again would not help.
    Frame numbers go on over a loss. ``on_notice`` runs on the thread that iterates ``frames`` and must not block.
    ``random`` gives n random bytes. ``stop`` may be called by any thread.
    """

    camera_factory: Callable[[], Camera]
    _: KW_ONLY
    clock: Clock
    random: Callable[[int], bytes]
    on_notice: Callable[[CameraNotice], None]
    _failures: int = field(default=0, init=False)
    _stop: Event = field(default_factory=Event, init=False)
    _info: CameraInfo | None = field(default=None, init=False)
    _lost: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let ``frames`` end at its next frame or attempt."""
        self._stop.set()

    def info(self) -> CameraInfo:
        """Facts of the camera as it was last open; raises CameraLostError before its first opening."""
        if self._info is None:
            raise CameraLostError("the camera was not reached yet; its facts are known once it is")
        return self._info

    def frames(self) -> Iterator[Frame]:
        """Frames until ``stop``; the caller closes each one."""
        number = 0
        while not self._stop.is_set():
            try:
                with closing(self._session()) as session:
                    for frame in session:
                        frame.number = number
                        number += 1
                        yield frame
            except CameraLostError as error:
                self._notice("camera_lost", str(error))
            self._failures += 1
            self._wait(full_jitter(self._failures, REOPEN_S, self.random))

    def _session(self) -> Generator[Frame, None, None]:
        """Frames of one opening."""
        with self.camera_factory() as camera:
            self._info = camera.info()
            first_ns: int | None = None
            try:
                for frame in camera.frames():
                    if self._stop.is_set():
                        frame.close()
                        return
                    if first_ns is None:
                        first_ns = self.clock.monotonic_ns()
                        self._notice("camera_back", "pictures arrive again")
                    yield frame
            finally:
                if first_ns is not None and self.clock.monotonic_ns() - first_ns >= STABLE_S * 1e9:
                    self._failures = 0
            raise CameraLostError("the camera gives no pictures: its stream ended")

    def _notice(self, kind: Literal["camera_lost", "camera_back"], reason: str) -> None:
        if (kind == "camera_lost") != self._lost:
            self._lost = not self._lost
            self.on_notice(CameraNotice(kind, reason))

    def _wait(self, seconds: float) -> None:
        while seconds > 0 and not self._stop.is_set():
            self.clock.sleep(min(seconds, STOP_POLL_S))
            seconds -= STOP_POLL_S


class LatestFrame:
    """Runs ``camera`` on its own thread and hands over its newest frame.

    For live sources: what was not looked at in time is forgotten, nothing queues. Files and scenes wait for their
    consumer, so the pipeline iterates those itself.
    At most three frames are alive: one being made, one waiting, one with the consumer. A frame that nobody took is
    closed when the next one comes. An error that ends the camera is raised to the consumer.
    """

    def __init__(self, camera: Supervised) -> None:
        self._camera = camera
        self._changed = Condition()
        self._waiting: Frame | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._stopping = False
        # A daemon: a thread stuck in a driver must not keep the process from ending.
        self._thread = Thread(target=self._run, name="camera", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def info(self) -> CameraInfo:
        return self._camera.info()

    def take(self, timeout_s: float) -> Frame | None:
        """Return the newest frame not taken yet, which the caller closes; None when none came in ``timeout_s`` seconds.

        Raises what ended the camera, and CameraLostError once it has ended or was stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._ended or self._stopping, timeout_s)
            frame, self._waiting = self._waiting, None
            if frame is not None:
                return frame
            if self._error is not None:
                raise self._error
            if self._ended or self._stopping:
                raise CameraLostError("the camera has ended; open it again for more")
            return None

    def stop(self) -> None:
        """End the thread, within ``STOP_TIMEOUT_S``; a later frame of it is closed at once. Idempotent."""
        with self._changed:
            self._stopping = True
            self._discard_waiting()
            self._changed.notify_all()
        self._camera.stop()
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._camera as camera:
                for frame in camera.frames():
                    if not self._offer(frame):
                        break
        except BaseException as raised:  # noqa: BLE001 -- handed to the consumer's thread, where it is raised
            error = raised
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()

    def _offer(self, frame: Frame) -> bool:
        with self._changed:
            if self._stopping:
                frame.close()
                return False
            self._discard_waiting()
            self._waiting = frame
            self._changed.notify_all()
            return True

    def _discard_waiting(self) -> None:
        frame, self._waiting = self._waiting, None
        if frame is not None:
            frame.close()
