# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Jetson cameras, and any other GStreamer pipeline that ends in NV12 pictures.

GStreamer's own messages are not passed on: those about a network source may quote its address with a password.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Final, Self, TypeAlias

import msgspec
import numpy as np

from agent.camera.base import CameraInfo, Frame
from agent.camera.convert import Plane, YuvColour, YuvPicture, colour_of, shrink
from agent.camera.timestamps import Timestamps
from agent.clock import Clock
from agent.config.camera import GstreamerCamera
from agent.errors import CameraLostError, ConfigError

FLIP_METHODS: Final = {0: 0, 90: 3, 180: 2, 270: 1}  # nvvidconv: 1 is counter-clockwise (L4T guide)
SINK: Final = "appsink name=postern drop=true max-buffers=1 sync=false"
STATE_TIMEOUT_NS: Final = 1_000_000_000  # an element that does not stop within a second is left to its thread
POLL_NS: Final = 100_000_000  # an element's error is noticed this soon, no picture is waited for then
FULL_RANGE: Final = 1  # GST_VIDEO_COLOR_RANGE_0_255, video-color.h; its name is no Python name
MALFORMED: Final = "it is not written as gst-launch-1.0 wants it"
TOO_LARGE: Final = "its pictures are larger than camera.max_width and camera.max_height"
REASONS: Final = {  # gstparse.h
    1: "one of its elements is not installed",  # GST_PARSE_ERROR_NO_SUCH_ELEMENT
    3: f"two of its elements share no format, or {TOO_LARGE}",  # GST_PARSE_ERROR_LINK
}

# Types come from GObject introspection at run time, so GStreamer's objects go by these names.
Pipeline: TypeAlias = Any  # Gst.Pipeline
Sample: TypeAlias = Any  # Gst.Sample
Module: TypeAlias = Any


class GstApi(msgspec.Struct, frozen=True):
    """The introspected modules."""

    Gst: Module
    GstVideo: Module
    GLib: Module


def load_gstreamer() -> GstApi:
    """Import and start GStreamer. Raises ConfigError where its Python binding is not installed for this Python."""
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        modules = [importlib.import_module(f"gi.repository.{name}") for name in ("Gst", "GstVideo", "GLib")]
    except Exception as error:  # ValueError: the namespace is not there; anything: a library that does not fit
        raise ConfigError(
            "GStreamer cameras need its Python binding: install the packages python3-gi and "
            "gir1.2-gst-plugins-base-1.0 and run the agent with /usr/bin/python3"
        ) from error
    api = GstApi(*modules)
    api.Gst.init(None)
    return api


def pipeline_text(settings: GstreamerCamera) -> str:
    """Build the pipeline in gst-launch notation, up to and with the sink that keeps the newest picture alone.

    Larger pictures than the settings allow are refused while formats are agreed on, before an element makes room for
    one: GLib ends the process where memory for it is refused.
    """
    if settings.pipeline is not None:
        most = f"width=[1,{settings.max_width}],height=[1,{settings.max_height}]"
        between = f'capsfilter caps="video/x-raw(ANY),{most};image/jpeg(ANY),{most}"'
        return f'{settings.pipeline_with(between)} ! capsfilter caps="video/x-raw,format=NV12,{most}" ! {SINK}'
    rate = Fraction(settings.frames_per_second).limit_denominator(1001)
    return (
        f"nvarguscamerasrc sensor-id={settings.sensor_id} ! video/x-raw(memory:NVMM),width={settings.width},"
        f"height={settings.height},framerate={rate.numerator}/{rate.denominator} ! "
        f"nvvidconv flip-method={FLIP_METHODS[settings.rotate]} ! capsfilter caps=video/x-raw,format=NV12 ! {SINK}"
    )


class _Layout(msgspec.Struct, frozen=True):
    """Where the two planes of an NV12 buffer lie, in bytes, and what their numbers mean."""

    width: int
    height: int
    offsets: tuple[int, int]
    strides: tuple[int, int]
    colour: YuvColour

    def picture(self, content: bytes | memoryview) -> YuvPicture:
        luma = self._plane(content, 0, self.height, self.width)
        pairs = self._plane(content, 1, (self.height + 1) // 2, self.width + self.width % 2)
        return YuvPicture(luma, pairs[:, 0::2], pairs[:, 1::2], self.colour)

    def _plane(self, content: bytes | memoryview, index: int, rows: int, columns: int) -> Plane:
        stride = self.strides[index]
        flat = np.frombuffer(content, np.uint8, (rows - 1) * stride + columns, self.offsets[index])
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride, 1), writeable=False)


@dataclass(eq=False)
class GstreamerSource:
    """One pipeline; implements ``agent.camera.base.Camera``.

    Pictures are copied out of GStreamer's buffers, of which hardware elements have only a few. Raises CameraLostError
    when the pipeline stops, ConfigError when it cannot be built.
    """

    settings: GstreamerCamera
    _: KW_ONLY
    lores_size: tuple[int, int]
    clock: Clock
    load: Callable[[], GstApi] = load_gstreamer
    _times: Timestamps = field(default_factory=Timestamps, init=False)
    _pipeline: Pipeline = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._api = self.load()
        self._pipeline = self._build()
        self._sink = self._pipeline.get_by_name("postern")
        # Running time on the system clock is CLOCK_MONOTONIC less the base time (GstSystemClock, default clock-type).
        self._pipeline.use_clock(self._api.Gst.SystemClock.obtain())
        try:
            self._pipeline.set_state(self._api.Gst.State.PLAYING)
            self._first: Sample = self._pull()
            self._layout = self._read_layout(self._first)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def info(self) -> CameraInfo:
        rate = self.settings.frames_per_second
        width, height = self._layout.width, self._layout.height
        if self._turn % 180:
            width, height = height, width
        return CameraInfo("gstreamer", width, height, rate, live=True)

    @property
    def _turn(self) -> int:
        """Degrees clockwise that are left to do: Jetson's converter turns by itself, an own pipeline does not."""
        return 0 if self.settings.pipeline is None else self.settings.rotate

    def frames(self) -> Iterator[Frame]:
        sample, self._first = self._first, None
        number = 0
        while True:
            yield self._frame(sample, number)
            number += 1
            sample = self._pull()

    def _build(self) -> Pipeline:
        try:
            return self._api.Gst.parse_launch(pipeline_text(self.settings))
        except self._api.GLib.Error as error:
            reason = REASONS.get(error.code, MALFORMED)
        raise ConfigError(f"the GStreamer pipeline cannot be built: {reason}; try it with gst-launch-1.0")

    def _pull(self) -> Sample:
        bus = self._pipeline.get_bus()
        for _ in range(math.ceil(self.settings.timeout_s * 1e9 / POLL_NS)):
            sample = self._sink.emit("try-pull-sample", POLL_NS)
            if sample is not None:
                return sample
            message = bus.pop_filtered(self._api.Gst.MessageType.ERROR)
            if message is not None:
                error, _ = message.parse_error()
                raise CameraLostError(
                    f"the GStreamer pipeline stopped ({error.domain} {error.code}): see why with gst-launch-1.0, or"
                    f" {TOO_LARGE}"
                )
            if self._sink.get_property("eos"):
                raise CameraLostError("the GStreamer pipeline gives no more pictures: its stream ended")
        raise CameraLostError(f"GStreamer gave no picture for {self.settings.timeout_s:g} seconds")

    def _read_layout(self, sample: Sample) -> _Layout:
        video = self._api.GstVideo
        info = video.VideoInfo.new_from_caps(sample.get_caps())
        matrices = {video.VideoColorMatrix.BT709: 709, video.VideoColorMatrix.BT601: 601}
        colour = colour_of(
            matrices.get(info.colorimetry.matrix),
            full_range=int(info.colorimetry.range) == FULL_RANGE,
            height=info.height,
        )
        meta = video.buffer_get_video_meta(sample.get_buffer()) or info  # hardware pads as it likes and says so there
        return _Layout(
            info.width, info.height, (meta.offset[0], meta.offset[1]), (meta.stride[0], meta.stride[1]), colour
        )

    def _frame(self, sample: Sample, number: int) -> Frame:
        buffer = sample.get_buffer()
        claimed_ns = (
            None if buffer.pts == self._api.Gst.CLOCK_TIME_NONE else self._pipeline.get_base_time() + buffer.pts
        )
        self._layout = self._read_layout(sample)  # a stream may change its size between two pictures
        try:
            main = self._layout.picture(buffer.extract_dup(0, buffer.get_size())).turned(self._turn)
        except ValueError:
            raise CameraLostError("the GStreamer pipeline gave a picture that is cut short") from None
        lores = partial(shrink, main, (main.width, main.height), self.lores_size)
        return Frame(number, self._times.live(claimed_ns, self.clock.monotonic_ns()), lores, main, main.release)

    def _close(self) -> None:
        pipeline, self._pipeline = self._pipeline, None
        self._first = None
        if pipeline is not None:
            pipeline.set_state(self._api.Gst.State.NULL)
            pipeline.get_state(STATE_TIMEOUT_NS)
