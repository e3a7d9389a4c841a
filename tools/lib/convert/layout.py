# SPDX-License-Identifier: Apache-2.0
"""Where ONNX and TensorFlow differ: order of axes, padding, shapes. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError

IMAGE_RANK = 4
TO_NHWC = (0, 2, 3, 1)  # of the axes of a picture in ONNX order: batch, channels, height, width
TO_NCHW = (0, 3, 1, 2)


def nhwc_axis(axis: int) -> int:
    """Return where TensorFlow keeps an axis (also negative) of an ONNX picture."""
    return TO_NHWC.index(axis % IMAGE_RANK)


def nhwc_constant(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a constant that broadcasts over (n, c, h, w) so that it broadcasts over (n, h, w, c)."""
    return array.reshape((1,) * (IMAGE_RANK - array.ndim) + array.shape).transpose(TO_NHWC)


def conv_kernel(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (out, in / groups, h, w) as (h, w, in / groups, out)."""
    return weights.transpose(2, 3, 1, 0)


def depthwise_kernel(weights: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Return (channels * multiplier, 1, h, w) as (h, w, channels, multiplier)."""
    out, _, height, width = weights.shape
    return weights.reshape(channels, out // channels, height, width).transpose(2, 3, 0, 1)


def same_padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """Return what TensorFlow's SAME adds before and after an axis; ``window`` with its dilation."""
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def padding_mode(
    sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> str:
    """Return VALID or SAME where that is what ``pads`` (before, after; per axis) say, else EXPLICIT."""
    if all(pad == (0, 0) for pad in pads):
        return "VALID"
    same = [same_padding(*axis) for axis in zip(sizes, windows, strides, strict=True)]
    return "SAME" if same == list(pads) else "EXPLICIT"


def onnx_pads(
    pads: Sequence[int], auto_pad: str, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (before, after) per axis from the attributes ``pads`` and ``auto_pad`` of a Conv or a pool."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        same = [same_padding(*axis) for axis in zip(sizes, windows, strides, strict=True)]
        return same if auto_pad == "SAME_UPPER" else [pad[::-1] for pad in same]
    if auto_pad == "VALID" or not pads:
        return [(0, 0)] * len(sizes)
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


def reshape(shape: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that ONNX's Reshape makes of ``shape``: 0 keeps an axis, one -1 takes the rest."""
    kept = [shape[index] if size == 0 else int(size) for index, size in enumerate(wanted)]
    if kept.count(-1) == 1:
        known = math.prod(size for size in kept if size != -1)
        kept[kept.index(-1)] = math.prod(shape) // max(known, 1)
    if math.prod(kept) != math.prod(shape):
        raise ModelError(f"the model reshapes {tuple(shape)} to {tuple(wanted)}, which does not fit; give its --size")
    return tuple(kept)


def whole_factor(scales: Sequence[float]) -> int:
    """Return by how much a Resize enlarges height and width; raises ModelError unless it repeats pixels."""
    factor = round(float(scales[-1]))
    if len(scales) != IMAGE_RANK or factor < 1 or not np.allclose(scales, [1, 1, factor, factor]):
        raise ModelError(
            f"the model resizes by {list(map(float, scales))}; only enlarging both sides by one whole number converts"
        )
    return factor
