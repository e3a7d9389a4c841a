# SPDX-License-Identifier: Apache-2.0
"""Alignment: the transform, its pixel convention against OpenCV, and how little of the frame it asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.camera.base import Frame, Rgb, RgbPicture
from agent.camera.convert import BT709, YuvPicture
from agent.detect.face import Face
from agent.embed.align import TEMPLATE, align, umeyama


def similarity(scale: float, angle: float, x: float, y: float) -> NDArray[np.float64]:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


def apply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]


def face(landmarks: NDArray[np.float64]) -> Face:
    return Face((0.0, 0.0, 1.0, 1.0), landmarks.astype(np.float32), 1.0)


def frame(picture: Rgb) -> Frame:
    return Frame(0, 0, picture, RgbPicture(picture))


class Watched(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
    """A picture that remembers which part was taken of it, as x0, y0, x1, y1."""

    asked: list[tuple[int, int, int, int]]

    @staticmethod
    def of(array: Rgb) -> Watched:
        watched = array.view(Watched)
        watched.asked = []
        return watched

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            rows, columns = key
            self.asked.append((columns.start, rows.start, columns.stop, rows.stop))
        return np.asarray(self)[key]


def smooth(width: int, height: int) -> Rgb:
    """A picture with structure at several scales and no edge sharper than a few pixels."""
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [np.sin(x / 7 + y / 19), np.sin(x / 23 - y / 11), np.cos(x / 13) * np.sin(y / 9)]
    return (127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def landmarks_at(scale: float, angle: float, x: float, y: float) -> NDArray[np.float64]:
    return apply(similarity(scale, angle, x, y), TEMPLATE - 56)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-500, 500), st.floats(-500, 500))
def test_a_similarity_is_recovered_exactly(scale: float, angle: float, x: float, y: float) -> None:
    matrix = similarity(scale, angle, x, y)
    np.testing.assert_allclose(umeyama(TEMPLATE, apply(matrix, TEMPLATE)), matrix, rtol=1e-7, atol=1e-6)


def umeyama_with_svd(src: NDArray[np.float64], dst: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equations 34 to 43 of the paper, as published."""
    a, b = src - src.mean(0), dst - dst.mean(0)
    u, d, vt = np.linalg.svd(b.T @ a / len(src))
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / a.var(0).sum()
    rotation = u @ sign @ vt
    return np.column_stack([scale * rotation, dst.mean(0) - scale * rotation @ src.mean(0)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 20))
def test_noisy_landmarks_give_the_published_solution(seed: int, noise: float) -> None:
    src = TEMPLATE + np.random.default_rng(seed).normal(0, noise, TEMPLATE.shape)
    np.testing.assert_allclose(umeyama(src, TEMPLATE), umeyama_with_svd(src, TEMPLATE), rtol=1e-7, atol=1e-7)


def test_points_that_coincide_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        umeyama(np.ones((5, 2)), TEMPLATE)


def test_a_face_at_the_template_is_copied() -> None:
    picture = smooth(300, 200)
    crop = align(frame(picture), face(TEMPLATE + np.array([40, 30])))
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert np.abs(crop.astype(int) - picture[30:142, 40:152]).max() <= 1
    crop.fill(0)  # its holder may wipe it


@pytest.mark.parametrize("scale", [0.4, 0.8, 1.0, 1.7, 1.95])
@pytest.mark.parametrize("angle", [0.0, 0.35, -1.4])
def test_pixels_are_those_of_opencv_warp_affine(scale: float, angle: float) -> None:
    cv2 = pytest.importorskip("cv2")
    picture, landmarks = smooth(500, 400), landmarks_at(scale, angle, 250.3, 199.6)
    expected = cv2.warpAffine(picture, umeyama(landmarks, TEMPLATE), (112, 112), flags=cv2.INTER_LINEAR)
    difference = align(frame(picture), face(landmarks)).astype(int) - expected
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.7


@pytest.mark.parametrize(("scale", "factor"), [(2.3, 2), (3.4, 3), (5.6, 5)])
def test_a_large_face_is_averaged_before_it_is_sampled(scale: float, factor: int) -> None:
    cv2 = pytest.importorskip("cv2")
    picture, landmarks = smooth(900, 840), landmarks_at(scale, 0.2, 450, 420)
    watched = Watched.of(picture)
    crop = align(frame(watched), face(landmarks))
    ((x0, y0, x1, y1),) = watched.asked
    rows, columns = (840 - y0) // factor, (900 - x0) // factor
    window = picture[y0 : y0 + rows * factor, x0 : x0 + columns * factor]
    reduced = cv2.resize(window, (columns, rows), interpolation=cv2.INTER_AREA)
    matrix = umeyama((landmarks - [x0, y0] + 0.5) / factor - 0.5, TEMPLATE)
    difference = crop.astype(int) - cv2.warpAffine(reduced, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    assert (x1 - x0) % factor == (y1 - y0) % factor == 0
    assert np.abs(difference).max() <= 2
    assert np.abs(difference).mean() < 0.7


def test_fine_texture_of_a_large_face_does_not_alias() -> None:
    picture = np.zeros((700, 700, 3), np.uint8)
    picture[::2] = 255
    crop = align(frame(picture), face(landmarks_at(4.2, 0, 350, 350)))
    assert np.abs(crop.astype(int) - 127).max() <= 1


def test_what_lies_beyond_the_edge_is_black() -> None:
    picture = np.full((200, 200, 3), 200, np.uint8)
    crop = align(frame(picture), face(TEMPLATE - np.array([56, 0])))
    assert (crop[:, :55] == 0).all()
    assert (crop[:, 57:] == 200).all()
    assert (align(frame(picture), face(TEMPLATE + 5000)) == 0).all()
    assert (align(frame(picture), face(TEMPLATE - 5000)) == 0).all()


def test_only_the_rectangle_of_the_crop_is_converted() -> None:
    picture = Watched.of(smooth(1280, 720))
    align(frame(picture), face(landmarks_at(1.0, 0.3, 600, 300)))
    ((x0, y0, x1, y1),) = picture.asked
    assert (x1 - x0) * (y1 - y0) < 160 * 160
    assert x0 < 600 < x1
    assert y0 < 300 < y1


@pytest.mark.parametrize("halved", [(2, 2), (1, 2), (1, 1)])
@pytest.mark.parametrize("scale", [0.6, 1.3, 3.4])
def test_crop_of_planes_is_that_of_the_same_picture_in_colours(halved: tuple[int, int], scale: float) -> None:
    down, across = halved
    y, x = np.mgrid[:720, :960].astype(float)
    luma = (120 + 60 * np.sin(x / 31) * np.cos(y / 23)).astype(np.uint8)
    blue, red = ((128 + 50 * np.sin(a[::down, ::across] / 90)).astype(np.uint8) for a in (x + y, x - y))
    planes = YuvPicture(luma, blue, red, BT709)
    shown = face(landmarks_at(scale, 0.4, 455, 372))
    crop = align(Frame(0, 0, np.zeros((1, 1, 3), np.uint8), planes), shown)
    colours = align(frame(planes.window(0, 0, 960, 720)), shown)
    assert np.abs(crop.astype(int) - colours).max() <= 6
    crop.fill(0)  # its holder may wipe it
    beyond = align(Frame(0, 0, np.zeros((1, 1, 3), np.uint8), planes), face(TEMPLATE - np.array([56, 0])))
    assert (beyond[:, :55] == 0).all()  # black, not the colour that a colour difference of zero is


def test_inverse_of_the_transform_maps_the_template_back() -> None:
    landmarks = landmarks_at(1.3, 0.2, 90, 80)
    np.testing.assert_allclose(apply(invert(umeyama(landmarks, TEMPLATE)), TEMPLATE), landmarks, atol=1e-9)
