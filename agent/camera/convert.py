# SPDX-License-Identifier: Apache-2.0
"""YUV pictures as cameras and decoders give them, turned into RGB only where somebody looks."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Affine, Box, FineBox, Luma, Rgb, letterbox, lores_fit, scaled, warped

Plane = NDArray[np.uint8]  # (height, width), any strides
Table = NDArray[np.int16]  # (256,), fixed point with FRACTION_BITS

# 16-bit sums hold 255 * 1.164 + 127 * 2.112 = 565 with 5 fractional bits (18 080), and numpy adds 16-bit numbers
# at twice the speed of 32-bit ones. Three roundings of 1/64 keep the error below one grey level.
FRACTION_BITS: Final = 5
GREY: Final = 128  # a colour difference of none
HD_HEIGHT: Final = 720  # lines from which untagged video is taken as BT.709, as players do


class YuvColour(msgspec.Struct, frozen=True, eq=False):
    """How luma and colour differences became numbers: look-up tables of each one's share in red, green and blue.

    ``standard`` is 601 or 709, ``full_range`` says that black is 0 rather than 16.
    """

    standard: int
    full_range: bool
    luma: Table
    red_v: Table
    green_u: Table
    green_v: Table
    blue_u: Table


def _colour(standard: int, kr: float, kb: float, *, full_range: bool) -> YuvColour:
    """ITU-R BT.601-7 and BT.709-6, section 3: R = Y + 2(1-kr)V, B = Y + 2(1-kb)U, G from Y = kr R + kg G + kb B."""
    black, luma_span, chroma_span = (0, 255, 255) if full_range else (16, 219, 224)
    kg = 1 - kr - kb

    def table(zero: int, factor: float, rounding: float = 0.0) -> Table:
        shares = (np.arange(256) - zero) * factor * (1 << FRACTION_BITS) + rounding
        fixed = np.round(shares).astype(np.int16)
        fixed.setflags(write=False)
        return fixed

    red, blue = 2 * (1 - kr) * 255 / chroma_span, 2 * (1 - kb) * 255 / chroma_span
    return YuvColour(
        standard=standard,
        full_range=full_range,
        luma=table(black, 255 / luma_span, (1 << FRACTION_BITS) / 2),  # half a level, so that the final shift rounds
        red_v=table(128, red),
        green_u=table(128, -blue * kb / kg),
        green_v=table(128, -red * kr / kg),
        blue_u=table(128, blue),
    )


BT601: Final = _colour(601, 0.299, 0.114, full_range=False)
BT601_FULL: Final = _colour(601, 0.299, 0.114, full_range=True)
BT709: Final = _colour(709, 0.2126, 0.0722, full_range=False)
BT709_FULL: Final = _colour(709, 0.2126, 0.0722, full_range=True)


def colour_of(standard: int | None, *, full_range: bool, height: int) -> YuvColour:
    """Colour description for ``standard`` 601 or 709; None means untagged and goes by the number of lines."""
    if standard is None:
        standard = 709 if height >= HD_HEIGHT else 601
    if standard == 709:
        return BT709_FULL if full_range else BT709
    return BT601_FULL if full_range else BT601


class YuvPicture:
    """A picture of three planes; implements ``agent.camera.base.Picture``.

    ``y`` is (h, w); ``u`` and ``v`` have the same size or half of it (rounded up) in either direction, so I420,
    NV12, YUYV and 4:2:2 all fit as strided views of the camera's own buffer, padding cut off. After ``release``
    every access raises: the buffer belongs to the camera again.
    """

    __slots__ = ("_colour", "_planes")

    def __init__(self, y: Plane, u: Plane, v: Plane, colour: YuvColour) -> None:
        height, width = y.shape
        half_height, half_width = (height + 1) // 2, (width + 1) // 2
        halves = {(height, width), (half_height, width), (height, half_width), (half_height, half_width)}
        if u.shape != v.shape or u.shape not in halves:
            raise ValueError(f"planes of {y.shape}, {u.shape} and {v.shape} are not one picture")
        self._planes: tuple[Plane, Plane, Plane] | None = (y, u, v)
        self._colour = colour

    @property
    def colour(self) -> YuvColour:
        return self._colour

    @property
    def planes(self) -> tuple[Plane, Plane, Plane]:
        """y, u, v; raises ValueError once released."""
        if self._planes is None:
            raise ValueError("this picture was released")
        return self._planes

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    def turned(self, degrees: int) -> YuvPicture:
        """The same buffer turned clockwise by ``degrees``, 0, 90, 180 or 270; nothing is copied."""
        if degrees == 0:
            return self
        y, u, v = (turned(plane, degrees) for plane in self.planes)
        return YuvPicture(y, u, v, self._colour)

    def release(self) -> None:
        """Let go of the buffer; idempotent."""
        self._planes = None

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """RGB copy of the rectangle, clipped to the picture; uint8 (h, w, 3), possibly empty.

        Colour differences are repeated, not interpolated, as hardware and swscale's fast path do.
        """
        y, u, v = self.planes
        height, width = y.shape
        x0, x1 = min(max(x0, 0), width), min(max(x1, 0), width)
        y0, y1 = min(max(y0, 0), height), min(max(y1, 0), height)
        if x1 <= x0 or y1 <= y0:
            return np.zeros((max(y1 - y0, 0), max(x1 - x0, 0), 3), np.uint8)
        step_x, step_y = 1 + (u.shape[1] < width), 1 + (u.shape[0] < height)
        left, top = x0 - x0 % step_x, y0 - y0 % step_y  # where the first colour sample begins
        chroma = (slice(top // step_y, -(-y1 // step_y)), slice(left // step_x, -(-x1 // step_x)))
        rgb = _to_rgb(y[top:y1, left:x1], u[chroma], v[chroma], step_x, step_y, self._colour)
        return rgb if (left, top) == (x0, y0) else rgb[y0 - top :, x0 - left :].copy()

    def luma(self, box: Box, step: int) -> Luma:
        x0, y0, x1, y1 = box
        return self.planes[0][y0:y1:step, x0:x1].copy()

    def scaled(self, box: FineBox, pixels: int) -> Rgb:
        """As of the RGB picture, with colours converted once they are small: a fifth of the work at a near face."""
        y, u, v = self.planes
        across, down = u.shape[1] / y.shape[1], u.shape[0] / y.shape[0]
        halved = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        small = (scaled(y, box, pixels), scaled(u, halved, pixels), scaled(v, halved, pixels))
        return _to_rgb(*small, 1, 1, self._colour)

    def warped(self, inverse: Affine, pixels: int) -> Rgb:
        """As of the RGB picture, with colours converted once they are small, too."""
        y, u, v = self.planes
        halved = inverse * np.array([[u.shape[1] / y.shape[1]], [u.shape[0] / y.shape[0]]])
        small = (warped(y, inverse, pixels), warped(u, halved, pixels, GREY), warped(v, halved, pixels, GREY))
        return _to_rgb(*small, 1, 1, self._colour)

    def shrunk(self, box: Box, lores_size: tuple[int, int]) -> Rgb:
        y, u, v = self.planes
        x0, y0, x1, y1 = box
        step_x, step_y = 1 + (u.shape[1] < y.shape[1]), 1 + (u.shape[0] < y.shape[0])
        chroma = (slice(y0 // step_y, -(-y1 // step_y)), slice(x0 // step_x, -(-x1 // step_x)))
        width, height = lores_fit(x1 - x0, y1 - y0, *lores_size)
        y, u, v = (_resize(plane, width, height) for plane in (y[y0:y1, x0:x1], u[chroma], v[chroma]))
        return letterbox(_to_rgb(y, u, v, 1, 1, self._colour), lores_size)


def _to_rgb(y: Plane, u: Plane, v: Plane, step_x: int, step_y: int, colour: YuvColour) -> Rgb:
    height, width = y.shape
    luma = colour.luma.take(y)
    shares = (colour.red_v.take(v), colour.green_u.take(u) + colour.green_v.take(v), colour.blue_u.take(u))
    rgb = np.empty((height, width, 3), np.uint8)
    sums = np.empty((height, width), np.int16)
    for channel, share in enumerate(shares):
        rows = sums[::step_y]
        rows[:, ::step_x] = share
        if step_x == 2:
            rows[:, 1::2] = share[:, : width // 2]
        if step_y == 2:
            sums[1::2] = rows[: height // 2]
        sums += luma
        sums >>= FRACTION_BITS
        np.clip(sums, 0, 255, out=sums)
        rgb[..., channel] = sums
    return rgb


def turned(picture: Plane, degrees: int) -> Plane:
    """View of a uint8 (h, w) or (h, w, 3) picture turned clockwise by ``degrees``, a multiple of 90."""
    return np.rot90(picture, -degrees // 90)


def shrink(picture: YuvPicture, main_size: tuple[int, int], lores_size: tuple[int, int]) -> Rgb:
    """Make the detector's input from any YUV picture of the whole view, for cameras that do not make it themselves.

    ``main_size`` and ``lores_size`` are (w, h); ``picture`` shows what main shows at whatever size.
    Returns uint8 (h, w, 3). Planes are averaged over boxes before they become RGB.
    """
    width, height = lores_fit(*main_size, *lores_size)
    y, u, v = (_resize(plane, width, height) for plane in picture.planes)
    return letterbox(_to_rgb(y, u, v, 1, 1, picture.colour), lores_size)


def _resize(plane: Plane, width: int, height: int) -> Plane:
    if plane.shape == (height, width):
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX, reducing_gap=1.0))
