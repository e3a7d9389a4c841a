# SPDX-License-Identifier: Apache-2.0
"""From an RGB picture to the input tensor that a manifest entry describes.

Integer inputs go through a table of 256 values per channel. The models of this project (scale 1/128) need none: for
int8 with zero point 0 a pixel's highest bit is flipped, for uint8 with zero point 128 the picture is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.manifest import InputSpec

HIGHEST_BIT = np.uint8(128)

Picture = NDArray[np.uint8]  # (height, width, 3)
Preprocess = Callable[[Picture, NDArray[Any]], object]  # writes to its second argument; what it returns is of no use


def make_preprocess(spec: InputSpec) -> Preprocess:
    """Make a function that writes an RGB picture, uint8 (height, width, 3), into the tensor that ``spec`` describes."""
    write = _writer(_table(spec))
    reverse, planes = spec.colour == "BGR", spec.layout == "NCHW"

    def preprocess(image: Picture, tensor: NDArray[Any]) -> None:
        pixels = tensor[0].transpose(1, 2, 0) if planes else tensor[0]
        write(image[..., ::-1] if reverse else image, pixels)

    return preprocess


def _writer(table: NDArray[Any]) -> Preprocess:
    """Make a function that writes what ``table`` (256, 3) says of each pixel to an array of the picture's shape."""
    if table.dtype == np.uint8 and (table == np.arange(256)[:, None]).all():
        return lambda image, pixels: np.copyto(pixels, image)
    if table.dtype == np.int8 and (table == np.arange(-128, 128)[:, None]).all():
        return lambda image, pixels: np.bitwise_xor(image, HIGHEST_BIT, out=pixels.view(np.uint8))
    if (table == table[:, :1]).all():
        one = np.ascontiguousarray(table[:, 0])
        return lambda image, pixels: one.take(image, out=pixels, mode="clip")  # no pixel is above 255
    channels = np.arange(3)
    return lambda image, pixels: np.copyto(pixels, table[image, channels])


def _table(spec: InputSpec) -> NDArray[Any]:
    """(256, 3): what each pixel value becomes in each channel, channels in the order of the tensor."""
    real = (np.arange(256.0)[:, None] - spec.mean) / spec.std
    if spec.dtype == "float32":
        return real.astype(np.float32)
    limits = np.iinfo(spec.dtype)
    quantised: NDArray[Any] = np.clip(np.rint(real / spec.scale) + spec.zero_point, limits.min, limits.max)
    return quantised.astype(spec.dtype)
