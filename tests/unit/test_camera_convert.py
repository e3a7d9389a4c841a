# SPDX-License-Identifier: Apache-2.0
"""Colours are right to a few grey levels, windows are exact, and a released picture is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.camera.base import LORES_BORDER, lores_fit, lores_scale
from agent.camera.convert import (
    BT601,
    BT601_FULL,
    BT709,
    BT709_FULL,
    YuvColour,
    YuvPicture,
    colour_of,
    letterbox,
    shrink,
)

COLOURS = [BT601, BT601_FULL, BT709, BT709_FULL]
SHARES = {601: (0.299, 0.114), 709: (0.2126, 0.0722)}


def reference(y: np.ndarray, u: np.ndarray, v: np.ndarray, colour: YuvColour) -> np.ndarray:
    """The standards' equations in double precision, planes of equal size."""
    kr, kb = SHARES[colour.standard]
    black, luma, chroma = (0, 1.0, 1.0) if colour.full_range else (16, 255 / 219, 255 / 224)
    lightness = (y.astype(float) - black) * luma
    red = lightness + 2 * (1 - kr) * (v.astype(float) - 128) * chroma
    blue = lightness + 2 * (1 - kb) * (u.astype(float) - 128) * chroma
    green = (lightness - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1), 0, 255)


def random_picture(seed: int, width: int, height: int, steps: tuple[int, int], colour: YuvColour) -> YuvPicture:
    random = np.random.default_rng(seed)
    rows, columns = -(-height // steps[1]), -(-width // steps[0])
    shapes = ((height, width), (rows, columns), (rows, columns))
    return YuvPicture(*(random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes), colour)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 23),
    height=st.integers(1, 23),
    steps=st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]),
    colour=st.sampled_from(COLOURS),
    corners=st.tuples(*[st.integers(-5, 30)] * 4),
)
def test_every_window_is_the_standards_conversion_within_one_level(
    seed: int, width: int, height: int, steps: tuple[int, int], colour: YuvColour, corners: tuple[int, int, int, int]
) -> None:
    picture = random_picture(seed, width, height, steps, colour)
    y, u, v = picture.planes
    u, v = (plane.repeat(steps[1], 0).repeat(steps[0], 1)[:height, :width] for plane in (u, v))
    x0, y0, x1, y1 = corners
    expected = reference(y, u, v, colour)[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]

    window = picture.window(x0, y0, x1, y1)

    assert window.dtype == np.uint8
    assert window.shape == (max(min(y1, height) - max(y0, 0), 0), max(min(x1, width) - max(x0, 0), 0), 3)
    assert window.flags.c_contiguous
    assert window.flags.owndata
    assert window.size == 0 or np.abs(window - expected).max() <= 1


@pytest.mark.parametrize("colour", [BT601, BT709])
def test_conversion_agrees_with_ffmpeg(colour: YuvColour) -> None:
    av = pytest.importorskip("av")
    random = np.random.default_rng(5)
    # Flat blocks of 8 by 8 inside the legal range: no difference in chroma filtering or clipping can hide in them.
    y = np.kron(random.integers(16, 236, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    u, v = (np.kron(random.integers(90, 166, (8, 8)), np.ones((4, 4))).astype(np.uint8) for _ in range(2))
    packed = np.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(-1, 64)
    frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
    matrices = ("ITU709", "ITU601") if colour is BT709 else ("ITU601", "ITU709")

    theirs = frame.reformat(64, 64, "rgb24", *matrices).to_ndarray().astype(int)

    ours = YuvPicture(y, u, v, colour).window(0, 0, 64, 64).astype(int)
    assert np.abs(ours - theirs).max() <= 3
    assert np.abs(ours - theirs).mean() <= 2  # FFmpeg's own rounding: about 1 on x86-64, 1.8 on aarch64


def test_conversion_agrees_with_pillow() -> None:
    random = np.random.default_rng(6)
    planes = [random.integers(0, 256, (32, 40), dtype=np.uint8) for _ in range(3)]

    theirs = np.asarray(Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes]).convert("RGB")).astype(int)

    ours = YuvPicture(*planes, BT601_FULL).window(0, 0, 40, 32).astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_nv12_and_yuyv_fit_as_strided_views_of_one_buffer() -> None:
    nv12 = np.random.default_rng(7).integers(0, 256, (9, 16), dtype=np.uint8)  # 6 lines luma, 3 of pairs, padding 16
    luma, pairs = nv12[:6, :10], nv12[6:, :10]
    view = YuvPicture(luma, pairs[:, 0::2], pairs[:, 1::2], BT601)
    copy = YuvPicture(luma.copy(), pairs[:, 0::2].copy(), pairs[:, 1::2].copy(), BT601)
    assert (view.window(1, 1, 9, 6) == copy.window(1, 1, 9, 6)).all()

    yuyv = np.random.default_rng(8).integers(0, 256, (4, 24), dtype=np.uint8)
    packed = YuvPicture(yuyv[:, 0:20:2], yuyv[:, 1:20:4], yuyv[:, 3:20:4], BT709)
    assert (packed.width, packed.height) == (10, 4)
    assert packed.window(0, 0, 10, 4).shape == (4, 10, 3)


def test_planes_of_different_pictures_are_refused() -> None:
    luma = np.zeros((10, 10), np.uint8)
    with pytest.raises(ValueError, match="not one picture"):
        YuvPicture(luma, luma[:5, :5], luma[:5, :4], BT601)
    with pytest.raises(ValueError, match="not one picture"):
        YuvPicture(luma, luma[:3, :3], luma[:3, :3], BT601)


def test_released_picture_shows_nothing() -> None:
    picture = random_picture(1, 8, 8, (2, 2), BT601)
    picture.release()
    picture.release()
    for access in (lambda: picture.window(0, 0, 1, 1), lambda: picture.planes, lambda: picture.width):
        with pytest.raises(ValueError, match="released"):
            access()


def test_untagged_video_is_high_definition_from_720_lines_on() -> None:
    assert colour_of(None, full_range=False, height=576) is BT601
    assert colour_of(None, full_range=False, height=720) is BT709
    assert colour_of(601, full_range=True, height=1080) is BT601_FULL
    assert colour_of(709, full_range=True, height=240) is BT709_FULL


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8192), st.integers(1, 8192), st.integers(1, 640), st.integers(1, 640))
def test_main_fits_into_lores_and_touches_two_of_its_sides(
    main_w: int, main_h: int, lores_w: int, lores_h: int
) -> None:
    width, height = lores_fit(main_w, main_h, lores_w, lores_h)
    scale = lores_scale(main_w, main_h, lores_w, lores_h)
    assert 1 <= width <= lores_w
    assert 1 <= height <= lores_h
    assert width == lores_w or height == lores_h
    assert abs(width - main_w * scale) <= 1
    assert abs(height - main_h * scale) <= 1


@pytest.mark.parametrize("main_size", [(1280, 720), (720, 1280), (640, 480), (161, 91)])
def test_a_mark_in_main_is_found_in_lores_where_the_scale_says(main_size: tuple[int, int]) -> None:
    width, height = main_size
    luma = np.full((height, width), 40, np.uint8)
    x0, y0, x1, y1 = width // 2, height // 3, width // 2 + width // 4, height // 3 + height // 4
    luma[y0:y1, x0:x1] = 220
    grey = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)

    lores = shrink(YuvPicture(luma, grey, grey, BT601), main_size, (320, 240))

    fit_w, fit_h = lores_fit(width, height, 320, 240)
    assert lores.shape == (240, 320, 3)
    assert (lores[fit_h:] == LORES_BORDER).all()
    assert (lores[:, fit_w:] == LORES_BORDER).all()
    scale = lores_scale(width, height, 320, 240)
    rows, columns = np.nonzero(lores[:fit_h, :fit_w, 0] > 130)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(found - np.array([x0, y0, x1, y1]) * scale).max() <= 1


def test_border_is_grey_and_content_is_untouched() -> None:
    content = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    lores = letterbox(content, (5, 4))
    assert (lores[:2, :3] == content).all()
    assert (lores[2:] == LORES_BORDER).all()
    assert (lores[:, 3:] == LORES_BORDER).all()
