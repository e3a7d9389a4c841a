# SPDX-License-Identifier: Apache-2.0
"""The second look: patches cut exactly, faces told from others, landmarks placed where the picture shows them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import LORES_BORDER, Frame, RgbPicture
from agent.camera.scene.people import load_people
from agent.detect.detector import KNOWN_SCORE, TRUSTED, Detector, load_detector
from agent.detect.face import Face
from agent.detect.landmarks import MARGIN, PATCH, Landmarker, cut
from agent.errors import ModelError
from agent.inference.engine import load_engine

MODELS = Path(__file__).parents[2] / "models" / "manifest.yaml"
TOYS = Path(__file__).parents[1] / "assets" / "models" / "manifest.yaml"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(MODELS, "detector-320x240")


def ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Red says x, green says y."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[..., 1] = np.arange(width)[None], np.arange(height)[:, None]
    return picture


def test_patch_of_its_own_size_is_a_plain_copy() -> None:
    picture = ramp(200, 150)
    np.testing.assert_array_equal(cut(RgbPicture(picture), np.array([100.0, 80.0]), PATCH), picture[48:112, 68:132])


def averaged(centres: NDArray[np.float64], start: float, side: float, reach: float) -> NDArray[np.float64]:
    """What a triangle of half width ``reach`` sees of a ramp at ``centres``, within the square that begins at start."""
    pixels = np.arange(math.floor(start), math.ceil(start + side))
    weights = np.clip(1 - np.abs(pixels + 0.5 - centres[:, None]) / reach, 0, None)
    return (weights * pixels).sum(1) / weights.sum(1)


@example(x=0.0, y=274.25, side=538.5)  # the first row is within the picture and sees nothing above the square
@settings(deadline=None)  # the first picture of a run takes longer
@given(x=st.floats(-400, 700), y=st.floats(-400, 700), side=st.floats(1, 600))
def test_any_square_is_cut_where_it_lies(x: float, y: float, side: float) -> None:
    patch = cut(RgbPicture(ramp(200, 150)), np.array([x, y]), side)
    assert (patch.shape, patch.dtype) == ((PATCH, PATCH, 3), np.uint8)
    centres = (np.arange(PATCH) + 0.5) * side / PATCH
    columns, rows = x - side / 2 + centres, y - side / 2 + centres
    reach = max(side / PATCH, 1)  # pixels that one pixel of the patch averages over
    inside = (columns > reach) & (columns < 200 - reach)
    red, green = averaged(columns, x - side / 2, side, reach), averaged(rows, y - side / 2, side, reach)
    for row in np.flatnonzero((rows > reach) & (rows < 150 - reach))[::16]:
        np.testing.assert_allclose(patch[row, inside, 0], red[inside], atol=1.1)
        np.testing.assert_allclose(patch[row, inside, 1], green[row], atol=1.1)
    assert (patch[rows < -reach] == LORES_BORDER).all()
    assert (patch[:, columns > 200 + reach] == LORES_BORDER).all()


def test_embedder_is_refused_for_landmarks() -> None:
    with pytest.raises(ModelError, match="landmarks are looked for in patches of 64x64 pixels"):
        Landmarker(load_engine(TOYS, "toy-embedder"))


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_threshold_out_of_range_is_refused(detector: Detector, threshold: float) -> None:
    assert detector.landmarker is not None
    with pytest.raises(ModelError, match="score_threshold must be between 0 and 1"):
        Landmarker(detector.landmarker.engine, score_threshold=threshold)


@pytest.mark.parametrize("reach", [1e-3, 1e3, 1e9])
def test_box_of_no_possible_face_costs_nothing(detector: Detector, reach: float) -> None:
    assert detector.landmarker is not None
    marks = np.zeros((5, 2), np.float32)
    face = Face((50 - reach, 50 - reach, 50 + reach, 50 + reach), marks, 0.99)
    assert detector.landmarker.look(RgbPicture(ramp(200, 150)), face) is None


def portrait(size: tuple[int, int], at: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """A demo person on grey."""
    picture = np.full((size[1], size[0], 3), 90, np.uint8)
    whole = Image.fromarray(picture)
    person = load_people().picture("person-01", 1).resize((side, side))
    whole.paste(person, at, person)
    return np.array(whole)


def frame(main: NDArray[np.uint8], scale: int = 1) -> Frame:
    lores = np.asarray(Image.fromarray(main).reduce(scale)) if scale > 1 else main
    return Frame(0, 0, lores, RgbPicture(main))


def test_a_wall_taken_for_a_face_is_refused(detector: Detector) -> None:
    assert detector.landmarker is not None
    wall = RgbPicture(np.random.default_rng(1).integers(90, 110, (240, 320, 3), dtype=np.uint8))
    marks = np.array([[140, 100], [180, 100], [160, 120], [145, 140], [175, 140]], np.float32)
    assert detector.landmarker.look(wall, Face((120, 70, 200, 170), marks, 0.6)) is None


def test_a_shifted_box_leaves_the_landmarks_where_they_are(detector: Detector) -> None:
    main = portrait((320, 240), (80, 40), 160)
    (face,) = detector.detect(frame(main))
    eyes = float(np.hypot(*(face.landmarks[1] - face.landmarks[0])))
    assert detector.landmarker is not None
    x0, y0, x1, y1 = face.box
    shift = 0.05 * face.width
    moved = detector.landmarker.look(
        RgbPicture(main), Face((x0 + shift, y0 - shift, x1 + shift, y1 - shift), face.landmarks, 0.9)
    )
    assert moved is not None
    assert np.hypot(*(moved.landmarks - face.landmarks).T).mean() < 0.06 * eyes


def test_alignment_uses_the_finer_picture(detector: Detector) -> None:
    main = portrait((1280, 960), (500, 300), 200)
    one = frame(main, 4)
    (coarse,) = detector.detect(one)
    fine = detector.locate(one, coarse)
    assert fine.box == coarse.box
    assert (fine.landmarks != coarse.landmarks).any()
    (x, y), side = np.array(coarse.box).reshape(2, 2).mean(0), np.sqrt(coarse.width * coarse.height) * MARGIN
    (full,) = detector.detect(frame(main[int(y - 150) : int(y + 90), int(x - 160) : int(x + 160)]))
    shown = full.landmarks + np.array([int(x - 160), int(y - 150)])
    assert np.hypot(*(fine.landmarks - shown).T).mean() < 0.03 * side


def test_what_the_first_look_is_sure_of_is_placed_when_it_is_aligned(detector: Detector) -> None:
    main = portrait((320, 240), (80, 40), 160)
    (exact,) = detector.detect(frame(main))
    (coarse,) = detector.detect(frame(main), exact=False)
    assert coarse.score >= TRUSTED
    assert (coarse.landmarks != exact.landmarks).any()
    np.testing.assert_allclose(detector.locate(frame(main), coarse).landmarks, exact.landmarks, atol=0.01)


def test_whom_the_last_look_found_and_nothing_is_to_be_decided_about_is_looked_at_once(detector: Detector) -> None:
    main = portrait((320, 240), (80, 40), 60)
    (first,) = Detector(detector.engine).detect(frame(main))
    assert KNOWN_SCORE <= first.score < TRUSTED
    (twice,) = detector.detect(frame(main), exact=False)
    assert twice.score > first.score
    (coarse,) = detector.detect(frame(main), exact=False, known=[twice])
    assert (coarse.box, coarse.score) == (twice.box, first.score)
    x0, y0, x1, y1 = twice.box
    elsewhere = replace(twice, box=(x0 + twice.width, y0, x1 + twice.width, y1))
    for known, exact in (([elsewhere], False), ([], False), ([twice], True)):
        (face,) = detector.detect(frame(main), exact=exact, known=known)
        assert face.score == twice.score, "looked at twice"


def test_detector_without_a_second_look_keeps_its_own_landmarks() -> None:
    toy = load_detector(TOYS, "toy-detector")
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[32:64, 64:96, 2] = 255
    (face,) = toy.detect(frame(picture))
    assert toy.locate(frame(picture), face) is face
