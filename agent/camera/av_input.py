# SPDX-License-Identifier: Apache-2.0
"""What is to be opened: address, demuxer and options for files, RTSP and Video4Linux, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from agent.config.camera import FileCamera, RtspCamera, V4l2Camera
from agent.disk.files import read_brought
from agent.errors import ConfigError

MAX_CREDENTIALS: Final = 256  # characters of 'user:password'; RTSP servers cut off longer ones

# Decoders that may run, by FFmpeg's names: what a sender chooses among. Many others have never seen an attacker.
RTSP_CODECS: Final = "h264,hevc,mjpeg"
V4L2_CODECS: Final = "h264,mjpeg,rawvideo"
FILE_CODECS: Final = "h264,hevc,mjpeg,mpeg4,vp8,vp9,av1,libdav1d,ffv1,rawvideo"
MACROBLOCK: Final = 16  # pixels: coded pictures are multiples of it on both sides


@dataclass(frozen=True, slots=True)
class AvInput:
    """One thing to open. ``name`` is what messages call it; ``address`` may hold a password and is never shown.

    ``codecs`` may decode it, pictures up to ``max_pixels`` (coded) are; both hold while it is probed, too.
    ``timeout_s`` bounds opening and each wait for data, None for local files. ``sensor_clock`` says that the
    stream's own times are those of the monotonic clock.
    """

    kind: Literal["file", "rtsp", "v4l2"]
    name: str
    address: str = field(repr=False)
    demuxer: str | None
    options: Mapping[str, str]
    timeout_s: float | None
    live: bool
    codecs: str
    max_pixels: int
    sensor_clock: bool = False
    loop: bool = False
    realtime: bool = False
    decoder_threads: int = 1
    rotate: int = 0  # degrees clockwise, 0, 90, 180 or 270


def file_input(settings: FileCamera) -> AvInput:
    """Describe a local video; playlists inside it cannot reach the network."""
    return AvInput(
        kind="file",
        name=f"the video {settings.path}",
        address=f"file:{settings.path}",  # with the protocol, no name is taken for a URL
        demuxer=None,
        options=MappingProxyType({"protocol_whitelist": "file"}),
        codecs=FILE_CODECS,
        max_pixels=coded_pixels(settings.max_width, settings.max_height),
        timeout_s=None,
        live=False,
        loop=settings.loop,
        realtime=settings.realtime,
        decoder_threads=settings.decoder_threads,
        rotate=settings.rotate,
    )


def rtsp_input(settings: RtspCamera) -> AvInput:
    """Describe a network camera. Raises ConfigError or KeyStoreError when its credentials file is not usable."""
    address = settings.url
    if settings.credentials_file is not None:
        address = with_credentials(address, *read_credentials(settings.credentials_file))
    return AvInput(
        kind="rtsp",
        name="the RTSP camera",
        address=address,
        demuxer=None,
        options=MappingProxyType({}),  # FFmpeg opens nothing: see agent.camera.rtsp
        timeout_s=settings.timeout_s,
        live=True,
        codecs=RTSP_CODECS,
        max_pixels=coded_pixels(settings.max_width, settings.max_height),
        decoder_threads=settings.decoder_threads,
        rotate=settings.rotate,
    )


def v4l2_input(settings: V4l2Camera) -> AvInput:
    """Describe a Video4Linux device; a driver may give a smaller size than asked, frames carry the true one."""
    return AvInput(
        kind="v4l2",
        name=f"the camera {settings.device}",
        address=str(settings.device),
        demuxer="video4linux2",
        options=MappingProxyType(
            {
                "video_size": f"{settings.width}x{settings.height}",
                "framerate": f"{settings.frames_per_second:g}",
                "input_format": settings.format,
            }
        ),
        timeout_s=settings.timeout_s,
        live=True,
        rotate=settings.rotate,
        codecs=V4L2_CODECS,
        max_pixels=coded_pixels(settings.width, settings.height),
        sensor_clock=True,  # videobuf2 stamps buffers with CLOCK_MONOTONIC
    )


def coded_pixels(width: int, height: int) -> int:
    """How many pixels a picture of at most this size has as it is coded."""
    across, down = (-(-side // MACROBLOCK) * MACROBLOCK for side in (width, height))
    return across * down


def read_credentials(path: Path) -> tuple[str, str]:
    """User and password from a file that only its owner can read, one line ``user:password``.

    Raises KeyStoreError when the file is missing or others can read it, ConfigError when its content is not that.
    """
    try:
        user, colon, password = read_brought(path, secret=True).decode().removesuffix("\n").partition(":")
    except UnicodeDecodeError:
        user = colon = password = ""
    if not (user and colon and len(user) + len(password) < MAX_CREDENTIALS and (user + password).isprintable()):
        raise ConfigError(f"{path} does not hold one line 'user:password' of at most {MAX_CREDENTIALS} characters")
    return user, password


def with_credentials(url: str, user: str, password: str) -> str:
    """Build ``url`` with user and password in it, quoted (RFC 3986, section 3.2.1)."""
    parts = urlsplit(url)
    netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"
    return urlunsplit(parts._replace(netloc=netloc))
