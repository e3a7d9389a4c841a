# SPDX-License-Identifier: Apache-2.0
"""Files, network cameras and USB cameras through FFmpeg (PyAV 10 to 19: the package python3-av, or the extra rtsp)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Final, Self

from agent.camera.av_convert import AvConverter, PyAv, VideoFrame
from agent.camera.av_input import AvInput
from agent.camera.av_stream import AvStream, load_av
from agent.camera.base import CameraInfo, Frame
from agent.camera.timestamps import Timestamps
from agent.clock import Clock

MAX_PACE_NS: Final = 10_000_000_000  # a longer gap between two pictures of a recording is not waited for


@dataclass(eq=False)
class AvCamera:
    """One file, RTSP stream or Video4Linux device; implements ``agent.camera.base.Camera``.

    The full picture stays in the decoder's own planes, only the detector's picture is made. Times: of a file, the
    recording's own (at its pace: from the moment of opening); of Video4Linux, the driver's; of RTSP, of arrival.
    Raises what ``AvStream`` raises, and ConfigError where PyAV is missing.
    """

    source: AvInput
    _: KW_ONLY
    lores_size: tuple[int, int]
    clock: Clock
    load: Callable[[], PyAv] = load_av
    _times: Timestamps = field(default_factory=Timestamps, init=False)
    _stream: AvStream | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._av = self.load()
        self._converter = AvConverter(self._av, self.lores_size)
        self._stream = AvStream(self._av, self.source, self.clock)
        return self

    def __exit__(self, *_: object) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def info(self) -> CameraInfo:
        stream = self._opened()
        return CameraInfo(self.source.kind, stream.width, stream.height, stream.frame_rate, live=self.source.live)

    def frames(self) -> Iterator[Frame]:
        times = self._live_times() if self.source.live else self._recorded_times()
        numbers = itertools.count()
        for time_ns, picture in times:
            lores, main = self._converter.convert(picture)
            yield Frame(next(numbers), time_ns, lores, main, main.release)
            # A generator's names outlive the frame: they would hold its buffers while the next picture is decoded.
            del picture, lores, main

    def _live_times(self) -> Iterator[tuple[int, VideoFrame]]:
        stream = self._opened()
        for picture in stream.pictures():
            claimed = _time_ns(picture) if self.source.sensor_clock else None
            yield self._times.live(claimed, self.clock.monotonic_ns()), picture
            del picture
        raise stream.failure("it stopped sending")

    def _recorded_times(self) -> Iterator[tuple[int, VideoFrame]]:
        """Pictures of a file with their times; where it loops, again from its start, times going on."""
        due_ns = self.clock.monotonic_ns() if self.source.realtime else None
        while True:
            stream = self._opened()
            period_ns = round(1e9 / stream.frame_rate)
            shift_ns, next_ns = None, due_ns or 0
            for picture in stream.pictures():
                own_ns = _time_ns(picture)
                if own_ns is not None:
                    if shift_ns is None:
                        shift_ns = 0 if due_ns is None else due_ns - own_ns
                    next_ns = own_ns + shift_ns
                time_ns = self._times.rising(next_ns)
                if self.source.realtime:
                    self._pace(time_ns)
                yield time_ns, picture
                del picture
                due_ns = next_ns = time_ns + period_ns
            if not self.source.loop:
                return
            stream.close()
            self._stream = AvStream(self._av, self.source, self.clock)

    def _pace(self, time_ns: int) -> None:
        early_ns = time_ns - self.clock.monotonic_ns()
        if 0 < early_ns <= MAX_PACE_NS:
            self.clock.sleep(early_ns / 1e9)

    def _opened(self) -> AvStream:
        if self._stream is None:
            raise ValueError("the camera is not open")
        return self._stream


def _time_ns(picture: VideoFrame) -> int | None:
    if picture.pts is None or picture.time_base is None:
        return None
    base = picture.time_base
    return int(picture.pts * base.numerator * 1_000_000_000 // base.denominator)
