# SPDX-License-Identifier: Apache-2.0
"""The detector on a real model (it finds red, green and blue squares of 8, 16, 32 pixels): fitting, mapping, bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.camera.base import Frame, RgbPicture
from agent.detect.decoders.common import Candidates
from agent.detect.detector import Detector, load_detector, sane
from agent.errors import ModelError

MANIFEST = Path(__file__).parents[1] / "assets" / "models" / "manifest.yaml"
CHANNEL = {8: 0, 16: 1, 32: 2}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(MANIFEST, "toy-detector")


def scene(width: int, height: int, *squares: tuple[int, int, int]) -> NDArray[np.uint8]:
    picture = np.zeros((height, width, 3), np.uint8)
    for x, y, side in squares:
        picture[y : y + side, x : x + side, CHANNEL[side]] = 255
    return picture


def frame(lores: NDArray[np.uint8], main: NDArray[np.uint8] | None = None) -> Frame:
    return Frame(0, 0, lores, RgbPicture(lores if main is None else main))


def test_input_size_is_width_and_height(detector: Detector) -> None:
    assert detector.input_size == (160, 96)


def test_empty_picture_has_no_faces(detector: Detector) -> None:
    assert detector.detect(frame(scene(160, 96))) == []


def test_square_is_found_once_where_it_is(detector: Detector) -> None:
    (face,) = detector.detect(frame(scene(160, 96, (64, 32, 32))))
    # the cell's centre is (80, 48); 1.5 strides to each side
    np.testing.assert_allclose(face.box, (80 - 48, 0, 80 + 48, 96), atol=1.5)
    np.testing.assert_allclose(face.landmarks[2], (80, 48 + (71.7 - 56) / 56 * 48), atol=1)
    assert face.landmarks.dtype == np.float32
    assert 0.9 < face.score <= 1


def test_faces_come_best_first_and_bounded(detector: Detector) -> None:
    picture = scene(160, 96, (0, 0, 8), (120, 80, 8))
    picture[80:88, 120:128, 0] = 200
    faces = detector.detect(frame(picture))
    assert [round(face.box[0]) for face in faces] == [4 - 12, 124 - 12]
    assert faces[0].score > faces[1].score
    assert len(Detector(detector.engine, max_faces=1).detect(frame(picture))) == 1


def test_boxes_are_in_pixels_of_the_main_picture(detector: Detector) -> None:
    lores = scene(160, 96, (64, 32, 32))
    (small,) = detector.detect(frame(lores))
    (large,) = detector.detect(frame(lores, np.zeros((960, 1600, 3), np.uint8)))
    np.testing.assert_allclose(np.array(large.box), np.array(small.box) * 10, rtol=1e-5)
    np.testing.assert_allclose(large.landmarks, small.landmarks * 10, rtol=1e-5)


@pytest.mark.parametrize("times", [1, 10])
def test_a_second_try_sees_the_picture_farther_off_and_says_where_it_is(detector: Detector, times: int) -> None:
    lores = np.zeros((96, 160, 3), np.uint8)
    lores[24:72, 56:104, 2] = 255  # a square one and a half times as large as the largest that the network knows
    main = np.zeros((96 * times, 160 * times, 3), np.uint8)
    (face,) = detector.again(frame(lores, main))
    # seen as the largest square, whose box is 96 wide: 144 in the picture itself
    np.testing.assert_allclose(np.array(face.box) / times, (80 - 72, 48 - 72, 80 + 72, 48 + 72), atol=3)
    np.testing.assert_allclose(face.landmarks[2] / times, (80, 48 + (71.7 - 56) / 56 * 72), atol=3)
    assert detector.again(frame(scene(160, 96))) == []
    assert np.array_equal(lores[24:72, 56:104, 2], np.full((48, 48), 255)), "the camera's picture is left as it is"


def test_a_second_try_is_looked_at_closely_whatever_the_first_look_says() -> None:
    asked: list[RgbPicture] = []

    class Refuses:
        def look(self, picture: RgbPicture, _face: object) -> None:
            asked.append(picture)

    engine = load_detector(MANIFEST, "toy-detector").engine
    strict = Detector(engine, Refuses())  # type: ignore[arg-type]
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[24:72, 56:104, 2] = 255
    assert len(strict.detect(frame(picture), exact=False)) == 1, "the first look is sure of it"
    assert strict.again(frame(picture)) == []
    assert len(asked) == 1
    assert (asked[0].width, asked[0].height) == (160, 96)


def test_letterboxed_picture_is_mapped_by_the_one_relation(detector: Detector) -> None:
    lores = scene(160, 96, (64, 32, 32))
    lores[80:] = 128  # shows a main picture of 1600x800
    (face,) = detector.detect(frame(lores, np.zeros((800, 1600, 3), np.uint8)))
    np.testing.assert_allclose(face.box, (320, 0, 1280, 960), atol=15)


@pytest.mark.parametrize("size", [(160, 48), (80, 96), (320, 96), (640, 480), (40, 24)])
def test_picture_of_another_shape_is_fitted_and_mapped_back(detector: Detector, size: tuple[int, int]) -> None:
    width, height = size
    factor = min(160 / width, 96 / height)
    side = round(32 / factor)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:side, :side, 2] = 255
    (face,) = detector.detect(frame(picture))
    assert face.width * factor == pytest.approx(96, abs=3)
    assert (face.box[0] + face.box[2]) / 2 * factor == pytest.approx(16, abs=1)
    assert (face.box[1] + face.box[3]) / 2 * factor == pytest.approx(16, abs=1)


def test_border_forgets_the_frame_before(detector: Detector) -> None:
    assert detector.detect(frame(scene(159, 96, (64, 64, 32))))
    assert detector.detect(frame(scene(160, 48))) == []


def test_threshold_decides(detector: Detector) -> None:
    picture = scene(160, 96)
    picture[32:64, 64:96, 2] = 160
    assert Detector(detector.engine, score_threshold=0.5).detect(frame(picture))
    assert not Detector(detector.engine, score_threshold=0.99).detect(frame(picture))


def test_working_point_comes_from_the_manifest(detector: Detector) -> None:
    assert detector.score_threshold == detector.engine.entry.score_threshold == 0.6


@pytest.mark.parametrize("settings", [{"score_threshold": 1.0}, {"nms_iou": 0.0}, {"max_faces": 0}])
def test_settings_out_of_range_are_refused(detector: Detector, settings: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="between 0 and 1"):
        Detector(detector.engine, **settings)  # type: ignore[arg-type]


def test_threshold_that_the_head_cannot_express_is_refused(detector: Detector) -> None:
    with pytest.raises(ModelError, match="no score can reach"):
        Detector(detector.engine, score_threshold=1 - 1e-12)


def test_embedder_is_refused_as_detector() -> None:
    with pytest.raises(ModelError, match="not as a detector"):
        load_detector(MANIFEST, "toy-embedder")


def test_shapes_that_are_no_face_are_dropped() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 0, 5, 9], [0, 9, 9, 0], [0, 0, np.inf, 9], [0, 0, 9, 9]], np.float32)
    marks = np.tile(np.array([[1, 1], [5, 1], [3, 3], [2, 5], [5, 5]], np.float32), (5, 1, 1))
    marks[4] = 3
    kept = sane(Candidates(boxes, marks, np.arange(5, dtype=np.float32)))
    assert kept.scores.tolist() == [0]
