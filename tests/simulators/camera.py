# SPDX-License-Identifier: Apache-2.0
"""Real encoded videos, a camera that follows a script, and a real RTSP server that can be frozen and killed."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.clock import Clock
from agent.errors import CameraLostError
from tests.simulators.ports import free_port

SYSTEM_PYTHON = Path("/usr/bin/python3")  # GObject introspection is bound to the distribution's Python
RTSP_PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
RTSP_SERVER = Path(__file__).with_name("rtsp_server.py")


def picture(number: int, width: int, height: int) -> np.ndarray:
    """RGB (h, w, 3): a red left half, a blue right half, and a grey square that moves with ``number``."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2] = (200, 40, 40)
    array[:, width // 2 :] = (40, 60, 200)
    side = height // 4
    x = (number * 4) % (width - side)
    array[side : 2 * side, x : x + side] = 180
    return array


def write_clip(
    path: Path,
    *,
    frames: int = 20,
    size: tuple[int, int] = (320, 180),
    rate: int = 25,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    keyframes: int = 10,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode ``picture`` 0 to ``frames`` - 1; ``options`` are FFmpeg's for the encoder."""
    import av  # noqa: PLC0415 -- the extra may be missing

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = keyframes
        quality = {"preset": "ultrafast", "qp": "18"} if codec == "libx264" else {}
        stream.options = {**quality, **(options or {})}
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24").reformat(format=pixels)
            frame.pts = None
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class ScriptedCamera:
    """A live camera that gives ``frames`` frames ``period_s`` apart and is then lost, or raises ``opening`` at once.

    ``alive`` counts frames that were made and not yet closed, over all cameras that share the list.
    """

    def __init__(
        self,
        frames: int,
        *,
        clock: Clock,
        alive: set[int],
        opening: Exception | None = None,
        ending: Exception | None = None,
        period_s: float = 0.04,
    ) -> None:
        self._frames = frames
        self._clock = clock
        self._alive = alive
        self._opening = opening
        self._ending = ending or CameraLostError("the camera gives no pictures: the script says so")
        self._period_s = period_s
        self.closed = False

    def __enter__(self) -> Self:
        if self._opening is not None:
            raise self._opening
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def info(self) -> CameraInfo:
        return CameraInfo("scripted", 64, 48, 1 / self._period_s, live=True)

    def frames(self) -> Iterator[Frame]:
        for number in range(self._frames):
            self._clock.sleep(self._period_s)
            key = len(self._alive) + id(self) + number
            while key in self._alive:
                key += 1
            self._alive.add(key)
            shape = np.zeros((24, 32, 3), np.uint8)
            yield Frame(
                number,
                self._clock.monotonic_ns(),
                shape,
                RgbPicture(shape),
                lambda key=key: self._alive.remove(key),  # type: ignore[misc]
            )
        raise self._ending


class RtspServer:
    """gst-rtsp-server as its own process; /live asks for ``credentials`` (user, password) where given."""

    def __init__(self, *credentials: str) -> None:
        self.port = free_port()
        self._credentials = credentials
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def url(self, path: str = "live", credentials: str = "") -> str:
        return f"rtsp://{credentials}127.0.0.1:{self.port}/{path}"

    def start(self) -> None:
        """Run the server and wait until it listens; skips the test where its packages are missing."""
        if not SYSTEM_PYTHON.exists():
            _missing()
        command = [str(SYSTEM_PYTHON), str(RTSP_SERVER), str(self.port), *self._credentials]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self.kill()
            _missing()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Collected:
    """What a thread gave, for another thread to wait on."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def __call__(self, item: Any) -> None:
        self._queue.put(item)

    def next(self, timeout_s: float) -> Any:
        return self._queue.get(timeout=timeout_s)

    def clear(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    def all(self) -> Sequence[Any]:
        return list(self._queue.queue)


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def _missing() -> None:
    message = f"the RTSP server is not installed: apt-get install {RTSP_PACKAGES}"
    if os.environ.get("POSTERN_REQUIRE_RTSP") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
