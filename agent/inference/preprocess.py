# SPDX-License-Identifier: Apache-2.0
"""From an RGB picture to the input tensor that a manifest entry describes.

Integer inputs go through a table of 256 values per channel. The models of this project (scale 1/128) need none: for
int8 with zero point 0 a pixel's highest bit is flipped, for uint8 with zero point 128 the picture is handed over as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference.manifest import InputSpec

HIGHEST_BIT = np.uint8(128)

Preprocess = Callable[[NDArray[np.uint8]], NDArray[Any]]


def make_preprocess(spec: InputSpec) -> Preprocess:
    """Make a function from uint8 (height, width, 3) RGB to the input tensor with its batch dimension."""
    table = _table(spec)
    if table.dtype == np.uint8 and (table == np.arange(256)[:, None]).all():
        convert: Preprocess = np.asarray
    elif table.dtype == np.int8 and (table == np.arange(-128, 128)[:, None]).all():

        def convert(image: NDArray[np.uint8]) -> NDArray[Any]:
            return (image ^ HIGHEST_BIT).view(np.int8)

    elif (table == table[:, :1]).all():
        one = np.ascontiguousarray(table[:, 0])
        convert = one.take
    else:
        channels = np.arange(3)

        def convert(image: NDArray[np.uint8]) -> NDArray[Any]:
            values: NDArray[Any] = table[image, channels]
            return values

    reverse, planes = spec.colour == "BGR", spec.layout == "NCHW"

    def preprocess(image: NDArray[np.uint8]) -> NDArray[Any]:
        values = convert(image[..., ::-1] if reverse else image)
        return (values.transpose(2, 0, 1) if planes else values)[None]

    return preprocess


def _table(spec: InputSpec) -> NDArray[Any]:
    """(256, 3): what each pixel value becomes in each channel, channels in the order of the tensor."""
    real = (np.arange(256.0)[:, None] - spec.mean) / spec.std
    if spec.dtype == "float32":
        return real.astype(np.float32)
    limits = np.iinfo(spec.dtype)
    quantised: NDArray[Any] = np.clip(np.rint(real / spec.scale) + spec.zero_point, limits.min, limits.max)
    return quantised.astype(spec.dtype)
