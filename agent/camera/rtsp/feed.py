# SPDX-License-Identifier: Apache-2.0
"""Coded pictures of a network camera for FFmpeg's decoder, which is the only part of FFmpeg that meets them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from agent.camera.av_convert import PyAv, VideoFrame
from agent.camera.av_feed import CodedPicture, Coder, set_up
from agent.camera.av_input import AvInput
from agent.camera.rtsp.description import CLOCK
from agent.camera.rtsp.jpeg import JpegScans
from agent.camera.rtsp.rtp import Coded, NalUnits, Pictures
from agent.camera.rtsp.session import RtspSession
from agent.camera.rtsp.wire import RtspError
from agent.clock import Clock

TIME_BASE: Final = Fraction(1, CLOCK)


class RtspFeed:
    """A session that plays, and the decoder of its codec; implements ``agent.camera.av_feed.Feed``.

    Raises RtspError where the camera is of no use (any longer).
    """

    def __init__(self, av: PyAv, source: AvInput, clock: Clock) -> None:
        self._av, self._clock, self._timeout_s = av, clock, source.timeout_s or 0
        self._session = RtspSession(
            source.address,
            source.codecs,
            timeout_s=self._timeout_s,
            now_s=lambda: clock.monotonic_ns() / 1e9,
            random=secrets.token_bytes,
        )
        video = self._session.video
        self._pictures = Pictures(
            JpegScans() if video.codec == "mjpeg" else NalUnits(video.codec, video.parameter_sets), video.payload_type
        )
        try:
            self.context: Coder = av.CodecContext.create(video.codec, "r")
            set_up(self.context, source)
        except ValueError:  # PyAV's, where FFmpeg was built without it
            self._session.close()
            raise RtspError(
                f"FFmpeg has no decoder for {video.codec} here: choose another codec at the camera"
            ) from None

    def packets(self) -> Iterator[CodedPicture]:
        last_ns = self._clock.monotonic_ns()
        for data in self._session.packets():
            for coded in self._pictures.add(data):
                last_ns = self._clock.monotonic_ns()
                yield CodedPicture(coded.key, lambda coded=coded: self._decode(coded))  # type: ignore[misc]
            if self._clock.monotonic_ns() - last_ns > self._timeout_s * 1e9:
                raise RtspError(f"no picture came for {self._timeout_s:g} seconds")

    def rate(self) -> float:
        return self._session.video.rate or float(getattr(self.context, "framerate", None) or 0)

    def turn(self, first: VideoFrame) -> int:  # noqa: ARG002 - a stream has none
        return 0

    def close(self) -> None:
        self.context = None  # its memory goes with it
        self._session.close()

    def _decode(self, coded: Coded) -> list[VideoFrame]:
        packet = self._av.Packet(coded.data)
        packet.pts, packet.time_base = coded.time, TIME_BASE
        return list(self.context.decode(packet))
