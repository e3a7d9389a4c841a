# SPDX-License-Identifier: Apache-2.0
"""Decoded FFmpeg pictures to the detector's small picture and the full picture's planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from agent.camera.base import Rgb, letterbox, lores_fit
from agent.camera.convert import Plane, YuvColour, YuvPicture, colour_of, turned

# Annotations of PyAV differ between its releases, so its objects go by these names alone.
PyAv: TypeAlias = Any  # the module
VideoFrame: TypeAlias = Any  # av.VideoFrame
VideoPlane: TypeAlias = Any  # av.video.plane.VideoPlane

# Pixel formats whose planes are used where they lie, with their halvings (across, down); 'j' means full range.
PLANAR: Final = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
}
NV12: Final = "nv12"
YUYV: Final = "yuyv422"

FULL_RANGE: Final = 2  # AVCOL_RANGE_JPEG, libavutil/pixfmt.h
STANDARDS: Final = {1: 709, 5: 601, 6: 601}  # AVCOL_SPC_BT709, _BT470BG, _SMPTE170M; anything else counts as untagged


class AvConverter:
    """Holds the scaling contexts of one camera, so that they are set up once."""

    def __init__(self, av: PyAv, lores_size: tuple[int, int]) -> None:
        self._av = av
        self._lores_size = lores_size
        reformatter = av.video.reformatter.VideoReformatter
        self._common, self._scale, self._colour = reformatter(), reformatter(), reformatter()
        try:
            reformatter().reformat(av.VideoFrame(16, 16, "yuv420p"), 8, 8, threads=1)
        except TypeError:  # PyAV before 17: one thread, no choice
            self._threads: dict[str, int] = {}
        else:
            self._threads = {"threads": 1}

    def convert(self, picture: VideoFrame, turn: int = 0) -> Converted:
        """What ``picture`` becomes, turned clockwise by ``turn`` degrees, 0, 90, 180 or 270."""
        return Converted(self, picture, turn)

    def in_common(self, picture: VideoFrame) -> tuple[VideoFrame, Sequence[VideoPlane]]:
        """``picture`` itself where its planes can be used as they lie, else one whose planes can; with the planes."""
        name, planes = picture.format.name, picture.planes  # PyAV makes these anew each time it is asked
        if (name in PLANAR or name in {NV12, YUYV}) and all(plane.line_size >= 0 for plane in planes):
            return picture, planes
        picture = self._common.reformat(picture, None, None, "yuv420p", **self._threads)
        return picture, picture.planes

    def small(self, picture: VideoFrame, colour: YuvColour, shown: tuple[int, int], turn: int) -> Rgb:
        """Lores, uint8 (h, w, 3), turned; ``shown`` is the (w, h) of the picture once it is."""
        return letterbox(turned(self._shrink(picture, colour, shown, turn), turn), self._lores_size)

    def _shrink(self, picture: VideoFrame, colour: YuvColour, shown: tuple[int, int], turn: int) -> Rgb:
        """Make the part of lores that shows something, not turned yet; ``shown`` is the (w, h) once it is.

        Scaling in YUV and converting the small picture costs three quarters of doing both in one go.
        """
        width, height = lores_fit(*shown, *self._lores_size)
        if turn % 180:
            width, height = height, width
        target = "yuvj420p" if picture.format.name.startswith("yuvj") else "yuv420p"
        small = self._scale.reformat(picture, width, height, target, interpolation="AREA", **self._threads)
        if colour.full_range:  # PyAV's releases disagree about how to ask for it
            return YuvPicture(*_planes(small), colour).window(0, 0, width, height)
        # A destination that differs from the source makes every release set the source's matrix; RGB has none.
        matrices = ("ITU709", "ITU601") if colour.standard == 709 else ("ITU601", "ITU709")
        rgb = self._colour.reformat(small, None, None, "rgb24", *matrices, interpolation="POINT", **self._threads)
        return _rows(rgb.planes[0], height, 3 * width).reshape(height, width, 3)


class Converted:
    """One decoded picture, of which is made what is asked for; it is kept alive until ``release``."""

    __slots__ = ("_converter", "_main", "_picture", "_turn")

    def __init__(self, converter: AvConverter, picture: VideoFrame, turn: int) -> None:
        self._converter, self._turn = converter, turn
        self._picture: VideoFrame = picture
        self._main: YuvPicture | None = None

    def main(self) -> YuvPicture:
        """The full picture's planes where FFmpeg put them; ValueError once released."""
        if self._main is None:
            if self._picture is None:
                raise ValueError("this picture was released")
            picture, planes = self._converter.in_common(self._picture)
            name, self._picture = picture.format.name, picture
            views = _views(name, planes, picture.width, picture.height)
            self._main = YuvPicture(*views, _colour(picture, name)).turned(self._turn)
        return self._main

    def lores(self) -> Rgb:
        """The detector's picture, uint8 (h, w, 3); ValueError once released."""
        main = self.main()
        return self._converter.small(self._picture, main.colour, (main.width, main.height), self._turn)

    def release(self) -> None:
        """Let go of the buffer; idempotent."""
        if self._main is not None:
            self._main.release()
        self._main = self._picture = None


def _colour(picture: VideoFrame, name: str) -> YuvColour:
    # PyAV 10 does not tell a frame's tags; its untagged rule is right for what cameras send.
    standard, colour_range = getattr(picture, "colorspace", 0), getattr(picture, "color_range", 0)
    full_range = name.startswith("yuvj") or int(colour_range) == FULL_RANGE
    return colour_of(STANDARDS.get(int(standard)), full_range=full_range, height=picture.height)


def _planes(picture: VideoFrame) -> tuple[Plane, Plane, Plane]:
    return _views(picture.format.name, picture.planes, picture.width, picture.height)


def _views(name: str, planes: Sequence[VideoPlane], width: int, height: int) -> tuple[Plane, Plane, Plane]:
    """Give views of y, u, v without padding; the views keep the picture alive."""
    if name == YUYV:
        packed = _rows(planes[0], height, 2 * (width + width % 2))
        return packed[:, 0 : 2 * width : 2], packed[:, 1::4], packed[:, 3::4]
    luma = _rows(planes[0], height, width)
    if name == NV12:
        pairs = _rows(planes[1], (height + 1) // 2, width + width % 2)
        return luma, pairs[:, 0::2], pairs[:, 1::2]
    across, down = PLANAR[name]
    rows, columns = -(-height // down), -(-width // across)
    return luma, _rows(planes[1], rows, columns), _rows(planes[2], rows, columns)


def _rows(plane: VideoPlane, rows: int, columns: int) -> Plane:
    stride = plane.line_size
    return np.frombuffer(plane, np.uint8, rows * stride).reshape(rows, stride)[:, :columns]
