# SPDX-License-Identifier: Apache-2.0
"""The camera interface: context-managed frames with a monotonic sensor timestamp.

A frame owns its buffers only inside its ``with`` block. After the block they are released and every
access raises: this is how every picture is forgotten before the next frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]  # (height, width, 3), RGB
Luma = NDArray[np.uint8]  # (height, width), brightness
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, edges at whole numbers
FineBox = tuple[float, float, float, float]  # the same, with edges anywhere
Affine = NDArray[np.float64]  # (2, 3), from points to points, edges of pixels at whole numbers

EDGE = 1  # pixels, or blocks of them, around a covered rectangle that bilinear sampling reads
LORES_BORDER = 128  # grey level beside the picture in lores: the detector's zero point, so the border is silent


def lores_scale(main_width: int, main_height: int, lores_width: int, lores_height: int) -> float:
    """Lores pixels per main pixel, the one place where the two pictures are related.

    The main picture, or a part of it (``Picture.shrunk``), is scaled by this factor in both directions, anchored at the
    top left, and the rest of lores is ``LORES_BORDER``: lores (x, y) shows (x / scale, y / scale), edges at whole
    numbers.
    """
    return min(lores_width / main_width, lores_height / main_height)


def lores_fit(main_width: int, main_height: int, lores_width: int, lores_height: int) -> tuple[int, int]:
    """Width and height in lores pixels of the part that shows the main picture, at least 1 each."""
    scale = lores_scale(main_width, main_height, lores_width, lores_height)
    return max(1, round(main_width * scale)), max(1, round(main_height * scale))


def letterbox(content: Rgb, lores_size: tuple[int, int]) -> Rgb:
    """``content`` at the top left of a new uint8 (h, w, 3) picture of ``lores_size`` (w, h), see ``lores_scale``."""
    width, height = lores_size
    rows, columns = content.shape[:2]
    lores = np.empty((height, width, 3), np.uint8)
    lores[:rows, :columns] = content
    lores[rows:] = LORES_BORDER
    lores[:rows, columns:] = LORES_BORDER
    return lores


def scaled(plane: NDArray[np.uint8], box: FineBox, pixels: int) -> NDArray[np.uint8]:
    """``box`` of a plane or RGB picture, which lies within it, in ``pixels`` by ``pixels``."""
    x0, y0 = math.floor(box[0]), math.floor(box[1])
    extent = max(math.ceil(box[2]) - x0, math.ceil(box[3]) - y0)
    image = Image.fromarray(np.ascontiguousarray(plane[y0 : y0 + extent, x0 : x0 + extent]))
    inner = (box[0] - x0, box[1] - y0, min(box[2] - x0, image.width), min(box[3] - y0, image.height))
    return np.asarray(image.resize((pixels, pixels), Image.Resampling.BILINEAR, inner))


def warped(plane: NDArray[np.uint8], inverse: Affine, pixels: int, beyond: int = 0) -> NDArray[np.uint8]:
    """What ``inverse`` shows of a plane or RGB picture, in ``pixels`` by ``pixels``; ``beyond`` where it has nothing.

    ``inverse`` maps points of the result to points of the plane. Sampling is bilinear; what is more than twice as large
    in the plane is averaged down by a whole factor first, so that no detail aliases. Only what is covered is touched.
    """
    corners = inverse @ np.array([[0, pixels, 0, pixels], [0, 0, pixels, pixels], [1, 1, 1, 1]])
    factors, origin, slices = [], [], []
    for row, along, side in zip(inverse.tolist(), corners.tolist(), plane.shape[1::-1], strict=True):
        factor = max(int(math.hypot(row[0], row[1])), 1)
        first = max(math.floor(min(along) - 0.5) - EDGE * factor, 0)
        last = math.ceil(max(along) - 0.5) + EDGE * factor + 1
        # whole blocks, so that the last one is averaged over as many pixels as the others
        end = min(first + max(math.ceil((last - first) / factor), 0) * factor, side)
        factors.append(factor)
        origin.append(first)
        slices.append(slice(first, end))
    part = plane[slices[1], slices[0]]
    if not part.size:
        return np.full((pixels, pixels, *plane.shape[2:]), beyond, np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(part))
    if max(factors) > 1:
        picture = picture.reduce((factors[0], factors[1]))
    local = (inverse - np.array([[0, 0, origin[0]], [0, 0, origin[1]]])) / np.array(factors)[:, None]
    shown = picture.transform(
        (pixels, pixels),
        Image.Transform.AFFINE,
        local.ravel().tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=beyond if plane.ndim == 2 else (beyond,) * 3,
    )
    return np.asarray(shown)


class Picture(Protocol):
    """The full-resolution stream of one frame; converts only the part that is asked for."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """RGB copy of the rectangle, clipped to the picture; uint8 (h, w, 3), possibly empty."""

    def luma(self, box: Box, step: int) -> Luma:
        """Copy of the brightness of every ``step``-th row of ``box``, which lies within the picture."""

    def scaled(self, box: FineBox, pixels: int) -> Rgb:
        """``box``, which lies within the picture, as uint8 (pixels, pixels, 3) RGB; averaged down if larger."""

    def warped(self, inverse: Affine, pixels: int) -> Rgb:
        """What ``inverse`` shows, black beyond the edge: uint8 (pixels, pixels, 3) RGB that its holder may wipe."""

    def shrunk(self, box: Box, lores_size: tuple[int, int]) -> Rgb:
        """Lores of ``lores_size`` (w, h) that shows ``box``, which lies within the picture, as ``lores_scale`` says."""


class RgbPicture(msgspec.Struct, frozen=True):
    """A picture that already is an RGB array, uint8 (h, w, 3)."""

    array: Rgb

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    def window(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        return self.array[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].copy()

    def luma(self, box: Box, step: int) -> Luma:
        x0, y0, x1, y1 = box
        return self.array[y0:y1:step, x0:x1, 1].copy()  # green has most of what is seen as brightness

    def scaled(self, box: FineBox, pixels: int) -> Rgb:
        return scaled(self.array, box, pixels)

    def warped(self, inverse: Affine, pixels: int) -> Rgb:
        return warped(self.array, inverse, pixels).copy()

    def shrunk(self, box: Box, lores_size: tuple[int, int]) -> Rgb:
        x0, y0, x1, y1 = box
        inner = lores_fit(x1 - x0, y1 - y0, *lores_size)
        image = Image.fromarray(np.ascontiguousarray(self.array[y0:y1, x0:x1]))
        factors = image.width // inner[0], image.height // inner[1]
        exact = image.size == (factors[0] * inner[0], factors[1] * inner[1])  # the same means, in a third of the time
        small = image.reduce(factors) if exact else image.resize(inner, Image.Resampling.BOX)
        return letterbox(np.asarray(small), lores_size)


class Frame:
    """One exposure: a small RGB picture for detection and the full picture for crops.

    ``number`` counts frames of this camera session, ``timestamp_ns`` is the sensor's monotonic time. ``lores`` and
    ``main`` may be given as what makes them: most frames are empty, and of those nobody asks for the small picture, and
    for neither of one that is spared a look. ``relief`` belongs to cameras that
    measure depth: how far the nose of the face in a box (x0, y0, x1, y1, pixels of the main picture) stands before the
    plane of eyes and mouth, in eye distances; None where nothing was measured.
    """

    __slots__ = ("_lores", "_main", "_release", "number", "relief", "timestamp_ns")

    def __init__(
        self,
        number: int,
        timestamp_ns: int,
        lores: Rgb | Callable[[], Rgb],
        main: Picture | Callable[[], Picture],
        release: Callable[[], None] | None = None,
        relief: Callable[[Sequence[float]], float | None] | None = None,
    ) -> None:
        self.relief = relief
        self.number = number
        self.timestamp_ns = timestamp_ns
        self._lores: Rgb | Callable[[], Rgb] | None = lores
        self._main: Picture | Callable[[], Picture] | None = main
        self._release = release

    @property
    def lores(self) -> Rgb:
        """uint8 (h, w, 3) RGB at the detector's input size."""
        if self._lores is None:
            raise ValueError("this frame was released")
        if callable(self._lores):
            self._lores = self._lores()
        return self._lores

    @property
    def content(self) -> Rgb:
        """The part of ``lores`` that shows the picture: what is beside it is grey, and would pass for light."""
        lores = self.lores
        width, height = lores_fit(self.main.width, self.main.height, lores.shape[1], lores.shape[0])
        return lores[:height, :width]

    @property
    def main(self) -> Picture:
        if self._main is None:
            raise ValueError("this frame was released")
        if callable(self._main):
            self._main = self._main()
        return self._main

    def close(self) -> None:
        """Give the buffers back; idempotent."""
        self._lores = self._main = self.relief = None
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CameraInfo(msgspec.Struct, frozen=True):
    """What ``info`` and the installer may know about a camera: no addresses, no credentials."""

    source: str
    width: int
    height: int
    frames_per_second: float
    live: bool


class Camera(Protocol):
    """A source of frames.

    ``frames`` ends for a file or scene, and raises ``CameraLostError`` when a live source goes away.
    A source that is not ``live`` never drops a frame: it waits for its consumer.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def info(self) -> CameraInfo:
        """Facts known once the camera is open."""

    def frames(self) -> Iterator[Frame]:
        """Frames in order; the caller closes each one."""
