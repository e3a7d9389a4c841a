# SPDX-License-Identifier: Apache-2.0
"""A network camera before the real converter: packets as a script orders them, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Self

import av
import numpy as np

from agent.camera.av_feed import CodedPicture
from agent.clock import SimulatedClock

TIME_BASE = Fraction(1, 90_000)  # RTP's clock of video (RFC 3551, section 5)


@dataclass(frozen=True, slots=True)
class Scripted:
    """One packet: stream time and arrival in seconds since opening; ``fit`` says that it can be decoded."""

    pts_s: float
    arrives_s: float
    key: bool = True
    fit: bool = True


class ScriptedInput:
    """A Feed that plays the script once and moves the clock to each arrival; ``feed`` opens it."""

    def __init__(self, clock: SimulatedClock, script: Sequence[Scripted], *, size: tuple[int, int] = (64, 48)) -> None:
        self._clock, self._script, self._size = clock, script, size
        self.skipped: list[str] = []  # what the decoder was told to leave out, in order
        self.context = self

    def feed(self, *_: object) -> Self:
        return self

    @property
    def skip_frame(self) -> str:
        return self.skipped[-1] if self.skipped else "DEFAULT"

    @skip_frame.setter
    def skip_frame(self, what: str) -> None:
        self.skipped.append(what)

    def packets(self) -> Iterator[CodedPicture]:
        began_ns = self._clock.monotonic_ns()
        for one in self._script:
            late_ns = began_ns + round(one.arrives_s * 1e9) - self._clock.monotonic_ns()
            self._clock.advance(max(late_ns, 0) / 1e9)
            yield CodedPicture(one.key, partial(self._decode, one))

    def rate(self) -> float:
        return 25.0

    def turn(self, _: object) -> int:
        return 0

    def close(self) -> None: ...

    def _decode(self, script: Scripted) -> list[Any]:
        if not script.fit:
            raise av.error.InvalidDataError(1, "no key picture yet")
        width, height = self._size
        picture = av.VideoFrame.from_ndarray(np.zeros((height * 3 // 2, width), np.uint8), format="yuv420p")
        picture.pts, picture.time_base = round(script.pts_s / TIME_BASE), TIME_BASE
        return [picture]
