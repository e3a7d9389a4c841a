# SPDX-License-Identifier: Apache-2.0
"""The same layers in shapes that XNNPACK computes faster: other kernels, equal sums.

Measured in LiteRT 2.3 on x86-64: a strided stem over the three colours costs a third less with the pixels of one stride
side by side (3 channels leave most of a multiply-accumulate unit idle); a depthwise layer of more than 25 taps has no
kernel that passes once over the picture and takes twenty times as long as two of 25.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ONE_PASS_TAPS = 25  # of a depthwise layer: XNNPACK's largest kernel that reads each pixel once


class Stem(NamedTuple):
    """A convolution over (h, w / stride, stride * channels) that equals one over (h, w, channels).

    ``kernel`` (kh, groups of columns, stride * channels, out) moves by ``stride`` rows and one group; ``left`` and
    ``right`` are groups of padding.
    """

    kernel: np.ndarray
    left: int
    right: int


def side_by_side(kernel: np.ndarray, *, stride: int, pad: int, width: int) -> Stem | None:
    """Return the stem for ``kernel`` (kh, kw, in, out) on pictures of ``width`` pixels; None where it does not fit."""
    rows, columns, cin, cout = kernel.shape
    if width % stride:
        return None
    left = -(-pad // stride)
    lead = left * stride - pad  # columns of the first group that the kernel does not see
    taps = -(-(lead + columns) // stride)
    outputs = (width + 2 * pad - columns) // stride + 1
    right = outputs - 1 + taps - left - width // stride
    if right < 0:
        return None
    wide = np.zeros((rows, taps * stride, cin, cout), kernel.dtype)
    wide[:, lead : lead + columns] = kernel
    return Stem(wide.reshape(rows, taps, stride * cin, cout), left, right)


class Pool(NamedTuple):
    """A depthwise layer over the whole map, in parts whose sum is left to the 1x1 convolution after it.

    The map (h, w, c) with ``pad`` zero pixels at its end is read as (taps, parts * c); ``kernel`` (taps, parts * c).
    """

    kernel: np.ndarray
    bias: np.ndarray
    pad: int
    parts: int


def in_parts(kernel: np.ndarray, bias: np.ndarray) -> Pool:
    """Return the pool for ``kernel`` (h, w, c) and ``bias`` (c,), as few parts of at most 25 taps as possible."""
    positions, channels = kernel.shape[0] * kernel.shape[1], kernel.shape[2]
    parts = -(-positions // ONE_PASS_TAPS)
    taps = -(-positions // parts)
    whole = np.zeros((taps * parts, channels), kernel.dtype)
    whole[:positions] = kernel.reshape(positions, channels)
    biases = np.zeros((parts, channels), bias.dtype)
    biases[0] = bias
    return Pool(whole.reshape(taps, parts * channels), biases.ravel(), taps * parts - positions, parts)
