# SPDX-License-Identifier: Apache-2.0
"""picamera2 0.3.38 and the libcamera below it, as far as the agent uses them, without hardware.

Kept from the originals: padded strides and array shapes, sizes rounded to even, streams adjusted without a word,
``RuntimeError`` texts, a pipe that a failed constructor leaves open, controls that not every camera has, buffers that
are real memory maps (which cannot be unmapped while views of them exist) and are overwritten once their request is
released, a camera that stalls when all of its requests are held, and a ``close`` that hangs while a job that timed out
still waits.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from agent.camera.picam import PicameraApi

ALIGN = 64  # bytes of a line on the Pi 5 (pisp); a Pi 4 (vc4) uses 32


class FakeTransform:
    """libcamera.Transform."""

    def __init__(self, *, hflip: int = 0, vflip: int = 0) -> None:
        self.hflip, self.vflip = hflip, vflip


class FakeColourSpace:
    """libcamera.ColorSpace, of which only the text is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        return f"<libcamera.ColorSpace '{self._name}'>"


class Sensor:
    """The hardware behind one fake camera; a test turns its knobs."""

    def __init__(
        self,
        *,
        adjust: Callable[[dict[str, Any]], None] = lambda configuration: None,
        colour_space: str | None = None,
        present: bool = True,
        timestamps: bool = True,
        controls: tuple[str, ...] = ("AeEnable", "FrameDurationLimits"),
    ) -> None:
        self.adjust = adjust
        self.colour_space = colour_space
        self.present = present
        self.timestamps = timestamps
        self.controls = controls
        self.unplugged = False
        self.stuck = False
        self.exposures = 0
        self.requested: dict[str, Any] = {}
        self.cameras: list[FakePicamera2] = []
        self.requests: list[FakeRequest] = []

    @property
    def held(self) -> int:
        return sum(request.ref_count > 0 for request in self.requests)

    def api(self) -> PicameraApi:
        class Picamera2(FakePicamera2):
            sensor = self

        return PicameraApi(Picamera2, FakeMappedArray, FakeTransform)

    def colours(self, number: int) -> tuple[int, int, int]:
        """Y, U, V that exposure ``number`` shows in its left half; the right half has Y 200, U and V 128."""
        return 40 + number % 100, 90, 170


def shape_of(stream: dict[str, Any]) -> tuple[int, int]:
    return stream["size"][1] * 3 // 2, stream["stride"]


class FakePicamera2:
    """picamera2.Picamera2."""

    sensor: Sensor

    def __init__(self, camera_num: int = 0) -> None:
        self.notifyme_r, self.notifyme_w = os.pipe2(os.O_NONBLOCK)
        self.notifymeread = os.fdopen(self.notifyme_r, "rb")
        self.is_open = False
        if not self.sensor.present:
            raise RuntimeError(
                f'No camera number {camera_num} found - use "rpicam-hello --list-cameras" to check connected cameras'
            )
        self.sensor.cameras.append(self)
        self.camera_controls = dict.fromkeys(self.sensor.controls, (0, 1, 0))
        self.started = False
        self.closed = False
        self.configuration: dict[str, Any] = {}
        self._jobs = 0
        self._free: list[dict[str, mmap.mmap]] = []
        self._all: list[dict[str, mmap.mmap]] = []

    def create_video_configuration(
        self,
        main: dict[str, Any],
        lores: dict[str, Any] | None = None,
        raw: dict[str, Any] | None = None,
        transform: FakeTransform | None = None,
        colour_space: FakeColourSpace | None = None,
        buffer_count: int = 6,
        controls: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        def stream(given: dict[str, Any]) -> dict[str, Any]:
            width, height = given["size"]
            return {**given, "size": (width - width % 2, height - height % 2)}

        high = main["size"][0] >= 1280 and main["size"][1] >= 720
        return {
            "main": stream(main),
            "lores": None if lores is None else stream(lores),
            "raw": raw,
            "transform": transform,
            "colour_space": colour_space or FakeColourSpace("Rec709" if high else "SMPTE170M"),
            "buffer_count": buffer_count,
            "controls": controls or {},
        }

    def check_controls(self, controls: dict[str, Any]) -> None:
        for name in controls:
            if name not in self.camera_controls:
                raise RuntimeError(f"Control {name} is not advertised by libcamera")

    def configure(self, configuration: dict[str, Any]) -> None:
        if self.started:
            raise RuntimeError("Camera must be stopped before configuring")
        main, lores = configuration["main"], configuration["lores"]
        if lores is not None and (lores["size"][0] > main["size"][0] or lores["size"][1] > main["size"][1]):
            raise RuntimeError("lores stream dimensions may not exceed main stream")
        self.sensor.requested = {
            key: dict(value) if isinstance(value, dict) else value for key, value in configuration.items()
        }
        self.sensor.adjust(configuration)
        if self.sensor.colour_space is not None:
            configuration["colour_space"] = FakeColourSpace(self.sensor.colour_space)
        for stream in (configuration["main"], configuration["lores"]):
            if stream is not None:
                width, height = stream["size"]
                align = ALIGN * (2 if stream["format"] in {"YUV420", "YVU420"} else 1)  # half lines are aligned too
                stream["stride"] = -(-width // align) * align
                stream["framesize"] = stream["stride"] * height * 3 // 2
        self.check_controls(configuration["controls"])
        self.configuration = configuration

    def camera_configuration(self) -> dict[str, Any]:
        return self.configuration

    def start(self) -> None:
        if not self.configuration:
            raise RuntimeError("Camera has not been configured")
        streams = {name: self.configuration[name] for name in ("main", "lores") if self.configuration[name]}
        for _ in range(self.configuration["buffer_count"]):
            self._all.append({name: mmap.mmap(-1, stream["framesize"]) for name, stream in streams.items()})
        self._free = list(self._all)
        self.started = True

    def capture_request(self, wait: float | None = None) -> FakeRequest:
        if self._jobs or not self._free or self.sensor.unplugged:
            self._jobs += 1
            time.sleep(min(wait or 60, 0.05))  # the whole wait, shortened
            raise TimeoutError
        number, self.sensor.exposures = self.sensor.exposures, self.sensor.exposures + 1
        buffers = self._free.pop(0)
        for name, memory in buffers.items():
            self._expose(memory, self.configuration[name], number)
        request = FakeRequest(self, buffers, number)
        self.sensor.requests.append(request)
        return request

    def cancel_all_and_flush(self) -> None:
        self._jobs = 0

    def close(self) -> None:
        if self.closed:
            return
        if self.sensor.stuck:
            raise RuntimeError("Unable to stop preview.")
        assert not self._jobs, "close() hangs: a job that timed out is still at the head of the queue"
        self.started, self.closed = False, True
        self.notifymeread.close()
        os.close(self.notifyme_w)
        for buffers in self._all:
            if not any(request.buffers is buffers and request.ref_count for request in self.sensor.requests):
                unmap(buffers)

    def recycle(self, buffers: dict[str, mmap.mmap]) -> None:
        for memory in buffers.values():
            np.frombuffer(memory, np.uint8)[:] = 0xEE  # the next exposure
        if self.closed:
            unmap(buffers)
        else:
            self._free.append(buffers)

    def _expose(self, memory: mmap.mmap, stream: dict[str, Any], number: int) -> None:
        (width, height), name = stream["size"], stream["format"]
        array = np.frombuffer(memory, np.uint8).reshape(shape_of(stream))
        array[:] = 7  # what padding holds
        y, u, v = self.sensor.colours(number)
        left = width // 4 * 2
        array[:height, :left], array[:height, left:width] = y, 200
        if name in {"NV12", "NV21"}:
            first, second = (u, v) if name == "NV12" else (v, u)
            array[height:, 0:left:2], array[height:, 1:left:2] = first, second
            array[height:, left:width] = 128
        elif name in {"YUV420", "YVU420"}:
            halves = array[height:].reshape(height, -1)
            for rows, value in (
                (halves[: height // 2], u if name == "YUV420" else v),
                (halves[height // 2 :], v if name == "YUV420" else u),
            ):
                rows[:, : left // 2], rows[:, left // 2 : width // 2] = value, 128


class FakeRequest:
    """picamera2.request.CompletedRequest."""

    def __init__(self, camera: FakePicamera2, buffers: dict[str, mmap.mmap], number: int) -> None:
        self.camera, self.buffers, self.number = camera, buffers, number
        self.ref_count = 1

    def get_metadata(self) -> dict[str, Any]:
        metadata = {"ExposureTime": 10_000, "AnalogueGain": 1.5}
        return (
            {**metadata, "SensorTimestamp": 5_000_000_000 + self.number * 40_000_000}
            if self.camera.sensor.timestamps
            else metadata
        )

    def release(self) -> None:
        self.ref_count -= 1
        if self.ref_count < 0:
            raise RuntimeError("CompletedRequest: lock now has negative ref_count")
        self.camera.recycle(self.buffers)


class FakeMappedArray:
    """picamera2.MappedArray: a view of the buffer, padding cut off for NV12 and NV21 alone."""

    def __init__(self, request: FakeRequest, stream: str, reshape: bool = True, write: bool = True) -> None:
        configuration = request.camera.configuration[stream]
        self._array: np.ndarray | None = np.frombuffer(request.buffers[stream], np.uint8).reshape(
            shape_of(configuration)
        )
        if configuration["format"] in {"NV12", "NV21"}:
            self._array = self._array[:, : configuration["size"][0]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._array = None

    @property
    def array(self) -> np.ndarray:
        assert self._array is not None
        return self._array


def unmap(buffers: dict[str, mmap.mmap]) -> None:
    for memory in buffers.values():
        memory.close()  # BufferError: cannot close exported pointers exist
