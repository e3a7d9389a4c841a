# SPDX-License-Identifier: Apache-2.0
"""Which camera, as the configuration file says it: one struct per kind, told apart by ``source``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from agent.config.pipeline import bounded

MAX_SIDE = 8192  # pixels: the largest side that H.264 level 6 and today's sensors reach

Width = Annotated[int, Meta(ge=64, le=MAX_SIDE, multiple_of=2, description="pixels, even, 64 to 8192")]
Height = Annotated[int, Meta(ge=64, le=MAX_SIDE, multiple_of=2, description="pixels, even, 64 to 8192")]
FrameRate = Annotated[float, Meta(ge=1, le=120, description="frames per second, 1 to 120")]
Seconds = Annotated[float, Meta(ge=1, le=60, description="seconds without a frame after which it is lost, 1 to 60")]
MostWide = Annotated[
    int, Meta(ge=64, le=4096, description="pixels: wider pictures are refused, for their memory is the sender's choice")
]
MostHigh = Annotated[int, Meta(ge=64, le=4096, description="pixels: higher pictures are refused")]
Threads = Annotated[int, Meta(ge=1, le=16, description="decoder threads, 1 to 16; one costs the least per frame")]


Rotate = Annotated[
    int,
    Meta(ge=0, le=270, multiple_of=90, description="degrees to turn the picture clockwise: 0, 90, 180 or 270"),
]


class FileCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="file"):
    """A recorded video."""

    path: Annotated[Path, Meta(description="the video file")]
    loop: Annotated[bool, Meta(description="start again at its end")] = False
    realtime: Annotated[bool, Meta(description="at the pace of the recording instead of as fast as possible")] = False
    decoder_threads: Threads = 1
    max_width: MostWide = 1920
    max_height: MostHigh = 1200
    rotate: Rotate = 0


class RtspCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="rtsp"):
    """A network camera, over RTSP in one TCP connection."""

    url: Annotated[
        str, Meta(min_length=8, max_length=1024, description="rtsp://host[:port]/path; a secret if it holds a password")
    ]
    transport: Annotated[
        Literal["tcp"],
        Meta(
            description="how the pictures travel: tcp; into udp anybody in the network could put pictures of their own"
        ),
    ] = "tcp"
    credentials_file: Annotated[
        Path | None, Meta(description="file of mode 0600 with one line 'user:password', instead of both in the URL")
    ] = None
    timeout_s: Seconds = 5.0
    decoder_threads: Threads = 1
    max_width: MostWide = 1920
    max_height: MostHigh = 1200
    rotate: Rotate = 0

    def __post_init__(self) -> None:
        _check_user(self.url)
        parts = _split(self.url)
        if parts.scheme != "rtsp" or not parts.hostname or not self.url.isprintable():
            raise ValueError("give the camera's address as rtsp://host[:port]/path")
        if self.credentials_file is not None and "@" in parts.netloc:
            raise ValueError("the password stands both in the URL and in credentials_file; keep it in the file alone")

    def __repr__(self) -> str:
        return f"RtspCamera(transport={self.transport!r}, timeout_s={self.timeout_s!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("transport", self.transport), ("timeout_s", self.timeout_s)]


class V4l2Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="v4l2"):
    """A USB camera or another Video4Linux device."""

    device: Annotated[Path, Meta(description="the device, for instance /dev/video0 or a name in /dev/v4l/by-id")]
    width: Width = 1280
    height: Height = 720
    frames_per_second: FrameRate = 25.0
    format: Annotated[
        Literal[
            "mjpeg", "yuyv422", "uyvy422", "nv12", "yuv420p", "yuv422p", "gray", "gray16le", "rgb24", "bgr24", "h264"
        ],
        Meta(
            description="what the camera is asked for; mjpeg allows more frames over USB 2 than the raw formats, gray"
            " is what monochrome cameras offer (v4l2-ctl --list-formats)"
        ),
    ] = "mjpeg"
    rotate: Rotate = 0
    timeout_s: Seconds = 5.0


class Picamera2Camera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="picamera2"):
    """A Raspberry Pi camera on the CSI connector."""

    index: Annotated[int, Meta(ge=0, le=7, description="which camera, 0 is the first")] = 0
    width: Width = 1280
    height: Height = 720
    frames_per_second: FrameRate = 25.0
    rotate: Rotate = 0
    timeout_s: Seconds = 5.0


class GstreamerCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="gstreamer"):
    """An NVIDIA Jetson camera on the CSI connector, or any pipeline that ends in NV12 pictures."""

    sensor_id: Annotated[int, Meta(ge=0, le=15, description="which Jetson CSI camera, 0 is the first")] = 0
    width: Width = 1280
    height: Height = 720
    frames_per_second: FrameRate = 25.0
    rotate: Rotate = 0
    pipeline: (
        Annotated[
            str,
            Meta(
                max_length=2048,
                description="GStreamer elements instead of the Jetson CSI camera; must yield video/x-raw, format NV12",
            ),
        ]
        | None
    ) = None
    max_width: MostWide = 1920  # of a pipeline of one's own; the CSI camera gives what ``width`` and ``height`` say
    max_height: MostHigh = 1200
    timeout_s: Seconds = 5.0

    def __post_init__(self) -> None:
        if self.pipeline is not None and (not self.pipeline.strip() or not self.pipeline.isprintable()):
            raise ValueError("give the GStreamer elements in one line, for instance 'videotestsrc ! videoconvert'")

    def pipeline_with(self, bound: str) -> str | None:
        """The pipeline with the element ``bound`` behind each of its own, where it may run in production."""
        return self.pipeline and bounded(self.pipeline, bound)

    def __repr__(self) -> str:  # an own pipeline may hold an address with a password
        return f"GstreamerCamera(sensor_id={self.sensor_id!r}, own_pipeline={self.pipeline is not None!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("sensor_id", self.sensor_id), ("own_pipeline", self.pipeline is not None)]


class SceneCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source", tag="scene"):
    """A simulated view that a script describes: no camera, the same pictures each time."""

    script: Annotated[Path, Meta(description="the scene's script")]
    loop: Annotated[bool, Meta(description="start again at its end")] = False


CameraSettings = FileCamera | RtspCamera | V4l2Camera | Picamera2Camera | GstreamerCamera | SceneCamera


def _check_user(url: str) -> None:
    """Refuse a password that is not percent-encoded, wherever it makes the address end (RFC 3986, section 3.2)."""
    authority, *rest = re.split("[/?#]", url.partition("://")[2], maxsplit=1)
    user, at, _ = authority.rpartition("@")
    raw = "@" in "".join(rest) and not at  # the password holds '/', '?' or '#', or the path an '@'
    if raw or re.search("%(?![0-9A-Fa-f]{2})", user) or re.search(r"[\s\"<>\\^`{|}\[\]]", user):
        raise ValueError(
            "a character of user, password or path has to be percent-encoded ('#' is %23, '/' %2F, '?' %3F, '%' %25,"
            " and '@' in the path %40): write it so, or put user and password into credentials_file as they are"
        )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    return parts
