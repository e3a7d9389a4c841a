# SPDX-License-Identifier: Apache-2.0
"""One opened FFmpeg input: decoded pictures out, damage skipped within bounds, failures in our own words.

No message of FFmpeg is passed on, nor chained: it may quote the address with its password.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

from agent.camera.av_convert import PyAv, VideoFrame
from agent.camera.av_input import AvInput
from agent.camera.rtsp_check import Look, looked_at
from agent.clock import Clock
from agent.errors import CameraLostError, ConfigError, PosternError, RefusedError, printable

MAX_DAMAGED: Final = 100  # packets or pictures in a row that cannot be used: four seconds at 25 per second
TOO_SLOW: Final = "this machine decodes its pictures later than they come: choose the camera's smaller stream"
DEFAULT_FRAME_RATE: Final = 25.0  # per second, where a stream does not say
KEY_PATIENCE_S: Final = 120.0  # for a first key picture while data arrives; cameras have at most a minute between two
MAX_FRAME_RATE: Final = 240.0  # more is a made-up number in a header

# What FFmpeg's errors mean to a person, by class name: the names are the same in all releases of PyAV.
REASONS: Final = {
    "HTTPUnauthorizedError": "it refuses the user name or the password",
    "HTTPForbiddenError": "it refuses this user",
    "HTTPNotFoundError": "it has no stream of that name",
    "ConnectionRefusedError": "nothing answers at its address",
    "ExitError": "it stopped answering",
    "TimeoutError": "it stopped answering",
    "FileNotFoundError": "it does not exist",
    "PermissionError": "this program may not open it",
    "IsADirectoryError": "it is a folder",
    "InvalidDataError": "its content is not video that can be decoded",
    "MemoryError": "it needs more memory than a unit gives to what others send",
}
RTSP_REASONS: Final = {
    "PermissionError": "it did not start to play",  # rtspdec.c answers -1 to whatever PLAY brings, and that is EPERM
    "InvalidDataError": "it does not describe a video that can be decoded",
}

T = TypeVar("T")
Stream: TypeAlias = Any  # av.video.stream.VideoStream
Container: TypeAlias = Any  # av.container.InputContainer


def load_av() -> PyAv:
    """PyAV. Raises ConfigError where it is not installed."""
    try:
        av = importlib.import_module("av")
        importlib.import_module("av.logging")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "files, RTSP and USB cameras need PyAV: install the package python3-av, or 'pip install postern[rtsp]'"
        ) from error
    except Exception as error:
        reason = printable(f"{type(error).__name__}: {error}")
        raise ConfigError(f"PyAV is installed but cannot be loaded ({reason}): install python3-av again") from error
    if av.logging.get_level() is not None:  # None is off already, the default of newer releases
        av.logging.set_level(av.logging.PANIC)  # FFmpeg's log quotes addresses
    return av


class AvStream:
    """The first video stream of an input, opened, its first picture decoded.

    Raises CameraLostError where ``source`` is live. For a file it raises ConfigError when it cannot be opened, and
    RefusedError when it holds no picture or more than ``MAX_DAMAGED`` parts in a row cannot be decoded.
    """

    _video: Stream
    _pictures: Iterator[VideoFrame]

    def __init__(self, av: PyAv, source: AvInput, clock: Clock) -> None:
        self._av = av
        self._source = source
        self._clock = clock
        self._container: Container = None
        self._first: VideoFrame = None
        self._last_picture_ns = self._opened_ns = clock.monotonic_ns()
        self._key_seen = False
        self._hurried = False
        try:
            self._container = self._guarded(self._open)
            self._pictures = self._decode()
            first = self._first_picture()
        except BaseException:
            self.close()
            raise
        self._first = first
        self.width, self.height = int(first.width), int(first.height)
        self.turn = (source.rotate + self._recorded_turn(first)) % 360  # degrees clockwise, to show it upright
        rate = float(self._video.average_rate or 0)
        self.frame_rate = rate if 0 < rate <= MAX_FRAME_RATE else DEFAULT_FRAME_RATE

    def pictures(self) -> Iterator[VideoFrame]:
        """Yield decoded ``av.VideoFrame``s to the end of the stream."""
        first, self._first = self._first, None
        return chain([first] if first is not None else [], self._pictures)

    def hurry(self, late: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        """While ``late``, decode key pictures alone, which is how a decoder catches up."""
        if late != self._hurried and self._video is not None:
            self._hurried = late
            setattr(self._video.codec_context, "skip_frame", "NONKEY" if late else "DEFAULT")  # noqa: B010 - FFmpeg reads it

    def close(self) -> None:
        """Close the input; idempotent. The generator and the stream hold the decoder's memory, so they go, too."""
        container, self._container = self._container, None
        self._first = self._video = None
        self._pictures = iter(())
        if container is not None:
            self._guarded(container.close)

    def failure(self, reason: str, *, damaged: bool = True) -> PosternError:
        """Build the error that says why this input is of no use (any longer)."""
        if self._source.live:
            return CameraLostError(f"{self._source.name} gives no pictures: {reason}")
        kind = RefusedError if damaged else ConfigError
        return kind(f"{self._source.name} cannot be played: {reason}; give the path of an intact video file")

    def _open(self) -> Container:
        source = self._source
        bounds = {"max_pixels": str(source.max_pixels), "codec_whitelist": source.codecs}  # first of all while probing
        timeout = None if source.timeout_s is None else (source.timeout_s, source.timeout_s)
        with self._looked_at() as look:
            if look.refusal is not None:
                raise self.failure(look.refusal)
            container = self._av.open(
                look.address, mode="r", format=source.demuxer, options={**source.options, **bounds}, timeout=timeout
            )
        self._video = next(iter(container.streams.video), None)
        context = None if self._video is None else self._video.codec_context
        if context is None:
            container.close()
            raise self.failure("it has no video that can be decoded")
        context.options = {**context.options, **bounds}
        if not 0 <= context.width * context.height <= source.max_pixels:
            container.close()
            raise self.failure("its pictures are larger than camera.max_width and camera.max_height")
        context.thread_count = source.decoder_threads
        context.thread_type = "SLICE" if source.live else "AUTO"  # threads by frame would delay live pictures
        return container

    def _looked_at(self) -> AbstractContextManager[Look]:
        source = self._source
        if source.kind != "rtsp" or source.timeout_s is None:
            return nullcontext(Look(None, source.address))
        return looked_at(source.address, source.timeout_s, lambda: self._clock.monotonic_ns() / 1e9)

    def _first_picture(self) -> VideoFrame:
        for picture in self._pictures:
            return picture
        raise self.failure("it ends before its first picture")

    def _decode(self) -> Iterator[VideoFrame]:
        damaged = 0
        packets = self._container.demux(self._video)
        while (packet := self._guarded(lambda: next(packets, None))) is not None:
            self._key_seen = self._key_seen or bool(packet.is_keyframe)
            try:
                pictures = packet.decode()
            except (self._av.error.FFmpegError, ValueError):  # ValueError: PyAV found no decoder
                pictures = []
                damaged += self._key_seen or not self._source.live  # before it, a live stream cannot be decoded
            packet = None
            while pictures:
                picture = pictures.pop(0)
                if picture.is_corrupt or not self._sane(picture):
                    damaged += self._key_seen or not self._source.live
                    continue
                damaged = 0
                yield picture
                del picture  # its buffer goes back to the decoder before it needs another
                self._last_picture_ns = self._clock.monotonic_ns()  # now, for the consumer may have taken its time
            if damaged > MAX_DAMAGED:
                raise self.failure(f"more than {MAX_DAMAGED} parts in a row are damaged")
            self._check_stall()

    def _recorded_turn(self, first: VideoFrame) -> int:
        """Degrees clockwise that a file's display matrix asks for, in whole quarters."""
        turn = -getattr(first, "rotation", 0)  # PyAV counts the other way round
        if not turn:  # releases before 13 tell it as FFmpeg 5 does
            text = self._video.metadata.get("rotate", "0")
            turn = int(text) if text.lstrip("-").isdecimal() else 0
        return round(turn / 90) * 90 % 360

    def _sane(self, picture: VideoFrame) -> bool:
        return bool(0 < picture.width * picture.height <= self._source.max_pixels)

    def _check_stall(self) -> None:
        timeout_s = self._source.timeout_s
        if timeout_s is None:
            return
        now_ns = self._clock.monotonic_ns()
        if not self._key_seen:  # data arrives, or FFmpeg's own timeout would have ended this
            if now_ns - self._opened_ns > KEY_PATIENCE_S * 1e9:
                raise self.failure(
                    f"no key picture came within {KEY_PATIENCE_S:g} seconds: set its key interval (I-frame interval,"
                    " GOP) to one or two seconds"
                )
            self._last_picture_ns = now_ns
        elif now_ns - self._last_picture_ns > timeout_s * 1e9:
            raise self.failure(TOO_SLOW if self._hurried else f"no picture came for {timeout_s:g} seconds")

    def _guarded(self, call: Callable[[], T]) -> T:
        """Call FFmpeg; its errors become ours outside of the handler, so that none is chained."""
        try:
            return call()
        except self._av.error.FFmpegError as error:
            reasons = {**REASONS, **RTSP_REASONS} if self._source.kind == "rtsp" else REASONS
            reason = reasons.get(type(error).__name__, f"FFmpeg reports {error.strerror}")
        raise self.failure(reason, damaged=self._container is not None)
