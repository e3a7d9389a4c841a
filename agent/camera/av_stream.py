# SPDX-License-Identifier: Apache-2.0
"""One opened FFmpeg input: decoded pictures out, damage skipped within bounds, failures in our own words.

No message of FFmpeg is passed on, nor chained: it may quote the address with its password.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, TypeAlias, TypeVar

from agent.camera.av_convert import PyAv, VideoFrame
from agent.camera.av_feed import ContainerFeed, Feed, FeedError
from agent.camera.av_input import AvInput
from agent.camera.headroom import is_short
from agent.camera.rtsp.wire import RtspError
from agent.clock import Clock
from agent.errors import CameraLostError, ConfigError, PosternError, RefusedError, printable

MAX_DAMAGED: Final = 100  # packets or pictures in a row that cannot be used: four seconds at 25 per second
TOO_SLOW: Final = "this machine decodes its pictures later than they come: choose the camera's smaller stream"
DEFAULT_FRAME_RATE: Final = 25.0  # per second, where a stream does not say
KEY_PATIENCE_S: Final = 120.0  # for a first key picture while data arrives; cameras have at most a minute between two
MAX_FRAME_RATE: Final = 240.0  # more is a made-up number in a header

# What FFmpeg's errors mean to a person, by class name: the names are the same in all releases of PyAV.
REASONS: Final = {
    "ExitError": "it stopped answering",
    "TimeoutError": "it stopped answering",
    "FileNotFoundError": "it does not exist",
    "PermissionError": "this program may not open it",
    "IsADirectoryError": "it is a folder",
    "InvalidDataError": "its content is not video that can be decoded",
    "MemoryError": "it needs more memory than a unit gives to what others send: choose smaller pictures, or fewer that"
    " refer to each other",
}
T = TypeVar("T")
OpenFeed: TypeAlias = Callable[[PyAv, AvInput, Clock], Feed]


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


def open_feed(av: PyAv, source: AvInput, clock: Clock) -> Feed:
    """FFmpeg's own demuxers for what lies on this machine, the unit's own conversation for the network."""
    if source.kind != "rtsp":
        return ContainerFeed(av, source)
    from agent.camera.rtsp.feed import RtspFeed  # noqa: PLC0415 - a start reads what its own camera needs

    return RtspFeed(av, source, clock)


class AvStream:
    """The first video stream of an input, opened, its first picture decoded.

    Raises CameraLostError where ``source`` is live. For a file it raises ConfigError when it cannot be opened, and
    RefusedError when it holds no picture or more than ``MAX_DAMAGED`` parts in a row cannot be decoded.
    """

    _pictures: Iterator[VideoFrame]

    def __init__(self, av: PyAv, source: AvInput, clock: Clock, feed: OpenFeed = open_feed) -> None:
        self._av = av
        self._source = source
        self._clock = clock
        self._feed: Feed | None = None
        self._first: VideoFrame = None
        self._last_picture_ns = self._opened_ns = clock.monotonic_ns()
        self._key_seen = False
        self._hurried = False
        try:
            self._feed = opened = self._guarded(lambda: feed(av, source, clock))
            self._pictures = self._decode(opened)
            first = self._first_picture()
            self.turn = (source.rotate + opened.turn(first)) % 360  # degrees clockwise, to show it upright
            rate = opened.rate()
        except BaseException:
            self.close()
            raise
        self._first = first
        self.width, self.height = int(first.width), int(first.height)
        self.frame_rate = rate if 0 < rate <= MAX_FRAME_RATE else DEFAULT_FRAME_RATE
        base = first.time_base  # of all its pictures; a fraction that PyAV makes anew each time it is asked
        self._tick = None if base is None else (base.numerator * 1_000_000_000, base.denominator)

    def pictures(self) -> Iterator[VideoFrame]:
        """Yield decoded ``av.VideoFrame``s to the end of the stream."""
        first, self._first = self._first, None
        return chain([first] if first is not None else [], self._pictures)

    def time_ns(self, picture: VideoFrame) -> int | None:
        """The stream's own time of one of its pictures, where it says."""
        if picture.pts is None or self._tick is None:
            return None
        return int(picture.pts * self._tick[0] // self._tick[1])

    def rewind(self) -> bool:
        """Begin a recording anew where its container can do that; whether it did."""
        feed = self._feed
        try:
            if not isinstance(feed, ContainerFeed):
                return False
            feed.rewind()
        except self._av.error.FFmpegError:
            return False
        self._pictures = self._decode(feed)
        return True

    def hurry(self, late: bool) -> None:  # noqa: FBT001 - the one thing that it is told
        """While ``late``, decode key pictures alone, which is how a decoder catches up."""
        if late != self._hurried and self._feed is not None:
            self._hurried = late
            setattr(self._feed.context, "skip_frame", "NONKEY" if late else "DEFAULT")  # noqa: B010 - FFmpeg reads it

    def close(self) -> None:
        """Close the input; idempotent. The generator and the stream hold the decoder's memory, so they go, too."""
        feed, self._feed = self._feed, None
        self._first = None
        self._pictures = iter(())
        if feed is not None:
            self._guarded(feed.close)

    def failure(self, reason: str, *, damaged: bool = True) -> PosternError:
        """Build the error that says why this input is of no use (any longer)."""
        if self._source.live:
            return CameraLostError(f"{self._source.name} gives no pictures: {reason}")
        kind = RefusedError if damaged else ConfigError
        return kind(f"{self._source.name} cannot be played: {reason}; give the path of an intact video file")

    def _first_picture(self) -> VideoFrame:
        for picture in self._pictures:
            return picture
        raise self.failure("it ends before its first picture")

    def _decode(self, feed: Feed) -> Iterator[VideoFrame]:
        damaged = 0
        packets = feed.packets()
        while (packet := self._guarded(lambda: next(packets, None))) is not None:
            self._key_seen = self._key_seen or packet.key
            try:
                pictures = packet.decode()
            except MemoryError:  # FFmpeg's own is one as well
                raise self.failure(REASONS["MemoryError"]) from None
            except (self._av.error.FFmpegError, ValueError):  # ValueError: PyAV found no decoder
                pictures = []
                damaged += self._key_seen or not self._source.live  # before it, a live stream cannot be decoded
            packet = None
            if is_short():
                raise self.failure(REASONS["MemoryError"])
            while pictures:
                picture = pictures.pop(0)
                if picture.is_corrupt or not self._sane(picture):
                    damaged += self._key_seen or not self._source.live
                    continue
                damaged, self._key_seen = 0, True  # also where a stream has no key pictures, but a gradual refresh
                yield picture
                del picture  # its buffer goes back to the decoder before it needs another
                self._last_picture_ns = self._clock.monotonic_ns()  # now, for the consumer may have taken its time
            if damaged > MAX_DAMAGED:
                raise self.failure(f"more than {MAX_DAMAGED} parts in a row are damaged")
            self._check_stall()

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
        """Call what opens or reads; its errors become ours outside of the handler, so that none is chained."""
        try:
            return call()
        except (FeedError, RtspError) as error:
            reason = str(error)
        except MemoryError:
            reason = REASONS["MemoryError"]
        except self._av.error.FFmpegError as error:
            reason = REASONS.get(type(error).__name__, f"FFmpeg reports {error.strerror}")
        raise self.failure(reason, damaged=self._feed is not None)
