# SPDX-License-Identifier: Apache-2.0
"""Faster shapes of a layer give the sums of the layer itself."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tools.lib.train.rewrite import ONE_PASS_TAPS, in_parts, side_by_side

Numbers = NDArray[np.int64]  # whole numbers, so that equal means equal


def convolve(x: Numbers, kernel: Numbers, stride: tuple[int, int]) -> Numbers:
    """A convolution without padding, straight from its definition: x (h, w, in), kernel (kh, kw, in, out)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))[:: stride[0], :: stride[1]]
    return np.einsum("yxcij,ijco->yxo", windows, kernel)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(2, 12),
    height=st.integers(5, 8),
    size=st.integers(1, 5),
    stride=st.integers(2, 4),
    pad=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_a_stem_over_pixels_side_by_side_gives_the_same_sums(
    width: int, height: int, size: int, stride: int, pad: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(-9, 10, (height, width, 3))
    kernel = random.integers(-9, 10, (size, size, 3, 4))
    assume(width + 2 * pad >= size)
    stem = side_by_side(kernel, stride=stride, pad=pad, width=width)
    assume(stem is not None)
    assert stem is not None
    groups = np.pad(x.reshape(height, width // stride, 3 * stride), [(pad, pad), (stem.left, stem.right), (0, 0)])
    wanted = convolve(np.pad(x, [(pad, pad), (pad, pad), (0, 0)]), kernel, (stride, stride))
    np.testing.assert_array_equal(convolve(groups, stem.kernel, (stride, 1)), wanted)


def test_the_stems_of_this_projects_networks_take_the_fast_shape() -> None:
    detector = side_by_side(np.ones((4, 4, 3, 16)), stride=4, pad=0, width=320)
    embedder = side_by_side(np.ones((3, 3, 3, 32)), stride=2, pad=1, width=112)
    assert detector is not None
    assert embedder is not None
    assert (detector.kernel.shape, detector.left, detector.right) == ((4, 1, 12, 16), 0, 0)
    assert (embedder.kernel.shape, embedder.left, embedder.right) == ((3, 2, 6, 32), 1, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_parts_of_a_pool_add_up_to_the_pool(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, kernel = random.integers(-9, 10, (2, height, width, 5))
    bias = random.integers(-9, 10, 5)
    pool = in_parts(kernel, bias)
    taps = len(pool.kernel)
    assert taps <= ONE_PASS_TAPS
    assert taps * pool.parts == height * width + pool.pad
    padded = np.concatenate([x.reshape(-1, 5), np.zeros((pool.pad, 5), np.int64)])
    parts = (padded.reshape(taps, -1) * pool.kernel).sum(0) + pool.bias
    np.testing.assert_array_equal(parts.reshape(pool.parts, 5).sum(0), (x * kernel).sum((0, 1)) + bias)
