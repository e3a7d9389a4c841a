# SPDX-License-Identifier: Apache-2.0
"""Raspberry Pi cameras through picamera2: the hardware makes the small picture, crops come from the large one.

libcamera adjusts what it cannot do without saying so, hence everything is read back after ``configure``. Both
pictures are views of the camera's buffers; a frame that is not released starves the camera after a few more.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, Final, Self, TypeAlias

import msgspec

from agent.camera.base import CameraInfo, Frame, lores_fit
from agent.camera.convert import BT601, BT601_FULL, BT709, Plane, YuvColour, YuvPicture, colour_of, shrink
from agent.camera.timestamps import Timestamps
from agent.clock import Clock
from agent.config.camera import Picamera2Camera
from agent.errors import CameraLostError, ConfigError, printable

BUFFERS: Final = 6  # picamera2's own figure: three that the agent holds at most, three for the sensor to go on
PLANES_FIRST: Final = {"YUV420": "u", "YVU420": "v", "NV12": "u", "NV21": "v"}  # formats read, first colour plane
COLOURS: Final = (("sYCC", BT601_FULL), ("SMPTE170M", BT601), ("Rec709", BT709))  # libcamera's names, color_space.cpp

PACE: Final = "FrameDurationLimits"  # libcamera's control of the frame rate; USB cameras have none

# picamera2 carries few annotations and exists on Raspberry Pi OS alone, so its objects go by these names.
Camera2Class: TypeAlias = Any  # picamera2.Picamera2
Camera2: TypeAlias = Any  # one of it
Request: TypeAlias = Any  # picamera2.request.CompletedRequest


class PicameraApi(msgspec.Struct, frozen=True):
    """The three classes that are used of picamera2 and libcamera."""

    Picamera2: Camera2Class
    MappedArray: Callable[..., Any]
    Transform: Callable[..., Any]


def load_picamera2() -> PicameraApi:
    """Import picamera2. Raises ConfigError where it is not installed for this Python."""
    try:
        picamera2, libcamera = importlib.import_module("picamera2"), importlib.import_module("libcamera")
    except Exception as error:  # whatever the import of a library raises that does not fit
        raise ConfigError(
            "Raspberry Pi cameras need picamera2: install the package python3-picamera2 and run the agent with "
            "/usr/bin/python3, or in a virtual environment made with --system-site-packages"
        ) from error
    return PicameraApi(picamera2.Picamera2, picamera2.MappedArray, libcamera.Transform)


class _Stream(msgspec.Struct, frozen=True):
    """What libcamera made of one requested stream."""

    name: str
    format: str
    width: int
    height: int

    @classmethod
    def read(cls, name: str, configuration: Mapping[str, Any]) -> Self | None:
        stream = configuration.get(name)
        return None if stream is None else cls(name, str(stream["format"]), *stream["size"])


@dataclass(eq=False)
class PicamCamera:
    """One CSI camera; implements ``agent.camera.base.Camera``.

    Raises CameraLostError when it is not there or stops giving frames, ConfigError when picamera2 is missing or
    libcamera insists on a format that is not read here.
    """

    settings: Picamera2Camera
    _: KW_ONLY
    lores_size: tuple[int, int]
    clock: Clock
    load: Callable[[], PicameraApi] = load_picamera2
    _times: Timestamps = field(default_factory=Timestamps, init=False)
    _camera: Camera2 = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._api = self.load()
        try:
            self._camera = self._construct()
            self._configure()
            self._camera.start()
        except (RuntimeError, IndexError, OSError) as error:
            self._close()
            raise CameraLostError(
                f"CSI camera {self.settings.index} cannot be opened ({printable(str(error))}): check its cable, and "
                "that no other program uses it"
            ) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def info(self) -> CameraInfo:
        rate = self.settings.frames_per_second
        width, height = (
            (self._main.height, self._main.width) if self._quarter else (self._main.width, self._main.height)
        )
        return CameraInfo("picamera2", width, height, rate, live=True)

    def frames(self) -> Iterator[Frame]:
        number = 0
        while True:
            yield self._frame(self._capture(), number)
            number += 1

    def _construct(self) -> Camera2:
        """Make the camera object in two steps: a constructor that fails leaves open a pipe that its object alone knows.

        A camera that is missing is tried for years, and a thousand pipes are all that a process may have.
        """
        camera = self._api.Picamera2.__new__(self._api.Picamera2)
        try:
            camera.__init__(camera_num=self.settings.index)
        except BaseException:
            camera.notifymeread.close()
            os.close(camera.notifyme_w)
            raise
        return camera

    def _configure(self) -> None:
        settings = self.settings
        width, height = settings.width, settings.height
        if self._quarter:
            height, width = lores_fit(height, width, *self.lores_size)
        else:
            width, height = lores_fit(width, height, *self.lores_size)
        lores = (min(width + width % 2, settings.width), min(height + height % 2, settings.height))  # even, libcamera
        duration = round(1e6 / settings.frames_per_second)
        flip = int(self._flipped)
        self._camera.configure(
            self._camera.create_video_configuration(
                main={"format": "YUV420", "size": (settings.width, settings.height)},
                lores={"format": "YUV420", "size": lores},
                raw=None,  # unused, and its buffers are the largest
                transform=self._api.Transform(hflip=flip, vflip=flip),
                controls={PACE: (duration, duration)} if PACE in self._camera.camera_controls else {},
                buffer_count=BUFFERS,
            )
        )
        self._read_back(self._camera.camera_configuration())

    def _read_back(self, configuration: Mapping[str, Any]) -> None:
        main, lores = _Stream.read("main", configuration), _Stream.read("lores", configuration)
        if main is None or main.format not in PLANES_FIRST:
            raise ConfigError(
                f"CSI camera {self.settings.index} gives {main.format if main else 'nothing'} where one of "
                f"{', '.join(PLANES_FIRST)} is needed: choose another width and height"
            )
        self._main = main
        # Detection falls back to the large picture where the small one was made unreadable: slower, not wrong.
        self._small = lores if lores is not None and lores.format in PLANES_FIRST else main
        self._colour = _colour(str(configuration.get("colour_space")), main.height)
        # A camera that cannot flip its picture says so only here; then the views are flipped, which costs nothing.
        done, wanted = configuration["transform"], self._flipped
        self._steps = tuple(1 if bool(flipped) == wanted else -1 for flipped in (done.vflip, done.hflip))

    def _capture(self) -> Request:
        timeout_s = self.settings.timeout_s
        try:
            return self._camera.capture_request(wait=timeout_s)
        except TimeoutError:
            self._camera.cancel_all_and_flush()  # else the waiting job blocks ``close``
        except (RuntimeError, OSError) as error:
            raise CameraLostError(
                f"CSI camera {self.settings.index} gives no pictures ({printable(str(error))}): check its cable"
            ) from error
        raise CameraLostError(
            f"CSI camera {self.settings.index} gave no picture for {timeout_s:g} seconds: check its cable"
        )

    def _frame(self, request: Request, number: int) -> Frame:
        """Wrap a request; no view of its buffers may outlive the release, or they cannot be unmapped."""
        with ExitStack() as opening:
            opening.callback(request.release)
            time_ns = self._times.live(request.get_metadata().get("SensorTimestamp"), self.clock.monotonic_ns())
            main = self._picture(opening, request, self._main)
            small = main if self._small is self._main else self._picture(opening, request, self._small)
            buffers = opening.pop_all()

        def release() -> None:
            main.release()
            small.release()
            buffers.close()

        lores = partial(shrink, small, (main.width, main.height), self.lores_size)
        return Frame(number, time_ns, lores, main, release)

    def _picture(self, opening: ExitStack, request: Request, stream: _Stream) -> YuvPicture:
        mapped = opening.enter_context(self._api.MappedArray(request, stream.name, write=False))
        down, across = self._steps
        y, u, v = (plane[::down, ::across] for plane in _planes(mapped.array, stream))
        return YuvPicture(y, u, v, self._colour).turned(90 if self._quarter else 0)

    @property
    def _flipped(self) -> bool:
        """Whether the sensor turns the picture by 180 degrees."""
        return self.settings.rotate >= 180

    @property
    def _quarter(self) -> bool:
        """Whether a quarter turn is left, which no sensor does."""
        return self.settings.rotate % 180 == 90

    def _close(self) -> None:
        camera, self._camera = self._camera, None
        if camera is None:
            return
        try:
            camera.close()
        except (RuntimeError, OSError) as error:
            raise CameraLostError(
                f"CSI camera {self.settings.index} cannot be closed ({printable(str(error))}): restart the unit"
            ) from error


def _colour(colour_space: str, height: int) -> YuvColour:
    for name, colour in COLOURS:
        if name in colour_space:
            return colour
    return colour_of(None, full_range=False, height=height)


def _planes(array: Plane, stream: _Stream) -> tuple[Plane, Plane, Plane]:
    """Cut y, u, v out of picamera2's (h * 3 / 2, stride or w) array, which has padding in all formats but NV12."""
    width, height = stream.width, stream.height
    luma, colour = array[:height, :width], array[height:]
    if stream.format in {"NV12", "NV21"}:
        first, second = colour[:, 0:width:2], colour[:, 1:width:2]
    else:  # two planes of half the stride, one after the other
        halves = colour.reshape(height, -1)
        first, second = halves[: height // 2, : width // 2], halves[height // 2 :, : width // 2]
    return (luma, first, second) if PLANES_FIRST[stream.format] == "u" else (luma, second, first)
