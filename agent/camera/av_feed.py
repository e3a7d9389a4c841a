# SPDX-License-Identifier: Apache-2.0
"""Where coded pictures come from: a container that FFmpeg opens (files, Video4Linux), or another Feed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from agent.camera.av_convert import PyAv, VideoFrame
from agent.camera.av_input import AvInput

Coder: TypeAlias = Any  # av.VideoCodecContext
Stream: TypeAlias = Any  # av.VideoStream

NO_VIDEO: Final = "it has no video that can be decoded"
TOO_LARGE: Final = "its pictures are larger than camera.max_width and camera.max_height"


class FeedError(Exception):
    """Why an input is of no use, in a few words for a person."""


class CodedPicture(NamedTuple):
    """One packet: whether decoding can begin with it, and what decodes it, which raises FFmpeg's errors."""

    key: bool
    decode: Callable[[], list[VideoFrame]]


class Feed(Protocol):
    """An opened input. Everything but ``close`` may raise FFmpeg's errors, or FeedError."""

    context: Coder

    def packets(self) -> Iterator[CodedPicture]:
        """Packets of the video, to its end; the generator holds no packet while the next one is waited for."""

    def rate(self) -> float:
        """Frames per second as the source says, 0 where it does not; known once a picture was decoded."""

    def turn(self, first: VideoFrame) -> int:
        """Degrees clockwise by which the source says it is to be turned, in whole quarters."""

    def close(self) -> None: ...


def set_up(context: Coder, source: AvInput) -> None:
    """Bound what the decoder may be made to do, before it is opened."""
    context.options = {**context.options, **bounds(source)}
    context.thread_count = source.decoder_threads
    context.thread_type = "SLICE" if source.live else "AUTO"  # threads by frame would delay live pictures


def bounds(source: AvInput) -> dict[str, str]:
    """Options of FFmpeg that hold for demuxer, probing and decoder."""
    return {"max_pixels": str(source.max_pixels), "codec_whitelist": source.codecs}


class ContainerFeed:
    """The first video stream of what FFmpeg opens."""

    def __init__(self, av: PyAv, source: AvInput) -> None:
        timeout = None if source.timeout_s is None else (source.timeout_s, source.timeout_s)
        options = {**source.options, **bounds(source)}  # first of all while probing
        self._container = av.open(source.address, mode="r", format=source.demuxer, options=options, timeout=timeout)
        self._video: Stream = next(iter(self._container.streams.video), None)
        self.context: Coder = None if self._video is None else self._video.codec_context
        if self.context is None:
            self.close()
            raise FeedError(NO_VIDEO)
        if not 0 <= self.context.width * self.context.height <= source.max_pixels:
            self.close()
            raise FeedError(TOO_LARGE)
        set_up(self.context, source)

    def packets(self) -> Iterator[CodedPicture]:
        for packet in self._container.demux(self._video):
            held = [packet]
            del packet
            yield CodedPicture(bool(held[0].is_keyframe), lambda held=held: list(held.pop().decode()))  # type: ignore[misc]

    def rewind(self) -> None:
        """Go back to the beginning, ``packets`` anew; raises FFmpeg's error where that cannot be sought."""
        self._container.seek(self._container.start_time or 0)

    def rate(self) -> float:
        return float(self._video.average_rate or 0)

    def turn(self, first: VideoFrame) -> int:
        turn = -getattr(first, "rotation", 0)  # PyAV counts the other way round
        if not turn:  # releases before 13 tell it as FFmpeg 5 does
            text = self._video.metadata.get("rotate", "0")
            turn = int(text) if text.lstrip("-").isdecimal() else 0
        return round(turn / 90) * 90 % 360

    def close(self) -> None:
        """The stream holds the decoder's memory, so it goes, too."""
        self._video = self.context = None
        self._container.close()
