# SPDX-License-Identifier: Apache-2.0
"""A network camera before the real converter: packets as a script orders them, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from agent.clock import SimulatedClock

TIME_BASE = Fraction(1, 90_000)  # RTP's clock of video (RFC 3551, section 5)


@dataclass(frozen=True, slots=True)
class Scripted:
    """One packet: stream time and arrival in seconds since opening; ``fit`` says that it can be decoded."""

    pts_s: float
    arrives_s: float
    key: bool = True
    fit: bool = True


class ScriptedPacket:
    def __init__(self, script: Scripted, size: tuple[int, int]) -> None:
        self.is_keyframe = script.key
        self._script, self._size = script, size

    def decode(self) -> list[Any]:
        if not self._script.fit:
            raise av.error.InvalidDataError(1, "no key picture yet")
        width, height = self._size
        picture = av.VideoFrame.from_ndarray(np.zeros((height * 3 // 2, width), np.uint8), format="yuv420p")
        picture.pts, picture.time_base = round(self._script.pts_s / TIME_BASE), TIME_BASE
        return [picture]


class ScriptedInput:
    """Stands where PyAV's module does: ``open`` plays the script once and moves the clock to each arrival."""

    def __init__(self, clock: SimulatedClock, script: Sequence[Scripted], *, size: tuple[int, int] = (64, 48)) -> None:
        self._clock, self._script, self._size = clock, script, size
        self.skipped: list[str] = []  # what the decoder was told to leave out, in order
        self.error, self.video, self.VideoFrame = av.error, av.video, av.VideoFrame

    def open(self, *_: object, **__: object) -> Any:
        played, size = self, self._size

        class Context:
            options: dict[str, str] = {}  # noqa: RUF012 - as PyAV has it
            thread_count, thread_type = 1, "SLICE"
            name = "h264"
            width, height = size

            @property
            def skip_frame(self) -> str:
                return played.skipped[-1] if played.skipped else "DEFAULT"

            @skip_frame.setter
            def skip_frame(self, what: str) -> None:
                played.skipped.append(what)

        stream = SimpleNamespace(codec_context=Context(), average_rate=Fraction(25), metadata={})
        return SimpleNamespace(streams=SimpleNamespace(video=[stream]), demux=self._demux, close=lambda: None)

    def _demux(self, _: object) -> Iterator[ScriptedPacket]:
        began_ns = self._clock.monotonic_ns()
        for one in self._script:
            late_ns = began_ns + round(one.arrives_s * 1e9) - self._clock.monotonic_ns()
            self._clock.advance(max(late_ns, 0) / 1e9)
            yield ScriptedPacket(one, self._size)
