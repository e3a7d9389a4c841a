# SPDX-License-Identifier: Apache-2.0
"""Files, network cameras and USB cameras through FFmpeg (PyAV 10 to 19: the package python3-av, or the extra rtsp)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Self

from agent.camera.av_convert import AvConverter, PyAv, VideoFrame
from agent.camera.av_input import AvInput
from agent.camera.av_stream import TOO_SLOW, AvStream, OpenFeed, load_av, open_feed
from agent.camera.base import CameraInfo, Frame
from agent.camera.timestamps import StreamClock, Timestamps
from agent.clock import Clock

MAX_PACE_NS: Final = 10_000_000_000  # a longer gap between two pictures of a recording is not waited for
MAX_LIVE_AGE_NS: Final = 2_000_000_000  # an older picture is not of who stands there now: it is not handed over


@dataclass(eq=False)
class AvCamera:
    """One file, RTSP stream or Video4Linux device; implements ``agent.camera.base.Camera``.

    The full picture stays in the decoder's own planes, only the detector's picture is made. Times: of a file, the
    recording's own (at its pace: from the moment of opening); of Video4Linux, the driver's; of RTSP, the stream's own,
    set against the monotonic clock. Where this machine is too slow for a live stream, pictures that are older than
    ``MAX_LIVE_AGE_NS`` are left out, and only key pictures are decoded until it has caught up; it is lost when that
    does not help within the stream's timeout.
    Raises what ``AvStream`` raises, and ConfigError where PyAV is missing.
    """

    source: AvInput
    _: KW_ONLY
    lores_size: tuple[int, int]
    clock: Clock
    load: Callable[[], PyAv] = load_av
    feed: OpenFeed = open_feed
    _times: Timestamps = field(default_factory=Timestamps, init=False)
    _stream: AvStream | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._av = self.load()
        self._converter = AvConverter(self._av, self.lores_size)
        self._stream = AvStream(self._av, self.source, self.clock, self.feed)
        return self

    def __exit__(self, *_: object) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def info(self) -> CameraInfo:
        stream = self._opened()
        width, height = (stream.width, stream.height) if stream.turn % 180 == 0 else (stream.height, stream.width)
        return CameraInfo(self.source.kind, width, height, stream.frame_rate, live=self.source.live)

    def frames(self) -> Iterator[Frame]:
        times = self._live_times() if self.source.live else self._recorded_times()
        numbers = itertools.count()
        for time_ns, picture in times:
            shown = self._converter.convert(picture, self._opened().turn)
            yield Frame(next(numbers), time_ns, shown.lores, shown.main, shown.release)
            # A generator's names outlive the frame: they would hold its buffers while the next picture is decoded.
            del picture, shown

    def _live_times(self) -> Iterator[tuple[int, VideoFrame]]:
        stream = self._opened()
        clock, late_ns = StreamClock(), None
        for picture in stream.pictures():
            now_ns, claimed = self.clock.monotonic_ns(), stream.time_ns(picture)
            if claimed is not None and not self.source.sensor_clock:
                claimed = clock.taken(claimed, now_ns)
            time_ns = self._times.live(claimed, now_ns)
            if now_ns - time_ns <= MAX_LIVE_AGE_NS:
                late_ns = None
                yield time_ns, picture
            elif late_ns is None:
                late_ns = now_ns
            elif now_ns - late_ns > (self.source.timeout_s or 0) * 1e9:
                raise stream.failure(TOO_SLOW)
            stream.hurry(late_ns is not None)
            del picture
        raise stream.failure("it stopped sending")

    def _recorded_times(self) -> Iterator[tuple[int, VideoFrame]]:
        """Pictures of a file with their times; where it loops, again from its start, times going on.

        So they do where its own times go back, as in one of two recordings, or stand still.
        """
        due_ns = self.clock.monotonic_ns() if self.source.realtime else None
        while True:
            stream = self._opened()
            period_ns = round(1e9 / stream.frame_rate)
            shift_ns, next_ns, before_ns = None, due_ns or 0, -1
            shown = False
            for picture in stream.pictures():
                shown = True
                own_ns = stream.time_ns(picture)
                if own_ns is not None:
                    if shift_ns is None or own_ns <= before_ns:
                        shift_ns = 0 if due_ns is None else due_ns - own_ns
                    next_ns, before_ns = own_ns + shift_ns, own_ns
                time_ns = self._times.rising(next_ns)
                if self.source.realtime:
                    self._pace(time_ns)
                yield time_ns, picture
                del picture
                due_ns = next_ns = time_ns + period_ns
            if not self.source.loop:
                return
            if not (shown and stream.rewind()):  # probing it again would cost as much as some frames
                stream.close()
                self._stream = AvStream(self._av, self.source, self.clock, self.feed)

    def _pace(self, time_ns: int) -> None:
        early_ns = time_ns - self.clock.monotonic_ns()
        if 0 < early_ns <= MAX_PACE_NS:
            self.clock.sleep(early_ns / 1e9)

    def _opened(self) -> AvStream:
        if self._stream is None:
            raise ValueError("the camera is not open")
        return self._stream
