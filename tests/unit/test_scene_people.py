# SPDX-License-Identifier: Apache-2.0
"""The demo people: complete, small, decodable, unlike each other, and found by a detector that did not make them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from agent.camera.scene import people
from agent.camera.scene.people import PERSON_IDS, load_people
from agent.camera.scene.pose import PICTURE_SIDE
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import load_script
from tests.conftest import shared_folder

MAX_PACK_BYTES = 3_000_000  # the wheel carries them to every unit
FOLDER = Path(people.__file__).parents[1] / "people"


def test_the_pack_is_complete_and_holds_nothing_else() -> None:
    people = load_people()
    assert tuple(people.people) == PERSON_IDS
    named = {name for person in people.people.values() for name in person.pictures}
    assert {path.name for path in FOLDER.iterdir()} == named | {"people.yaml"}
    assert len(named) == sum(len(person.pictures) for person in people.people.values())


def test_the_pack_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MAX_PACK_BYTES


def test_every_picture_decodes_to_a_head_before_nothing() -> None:
    people = load_people()
    for who in PERSON_IDS:
        for number in range(1, len(people.people[who].pictures) + 1):
            rgba = np.asarray(people.picture(who, number))
            assert rgba.shape == (PICTURE_SIDE, PICTURE_SIDE, 4)
            assert np.all(rgba[90:140, 85:115, 3] == 255)  # the face
            assert np.all(rgba[:60, :8, 3] < 30)  # beside the head
            assert np.all(rgba[:60, -8:, 3] < 30)


def test_a_blend_lies_between_two_people_and_keeps_the_outline() -> None:
    people = load_people()
    one, other = (np.asarray(people.picture(who, 1)).astype(int) for who in ("person-07", "person-14"))
    blend = np.asarray(people.blended("person-07", "person-14", 0.5, 1)).astype(int)
    assert np.all(blend >= np.minimum(one, other) - 1)
    assert np.all(blend <= np.maximum(one, other) + 1)
    assert np.abs(blend - (one + other) / 2).max() <= 1


def test_people_are_recorded_as_unlike_each_other_and_like_themselves() -> None:
    measured = load_people().measured
    assert measured["between_first_max"] < 0.35
    assert measured["within_min"] > 0.6
    assert measured["nearest_training_max"] < measured["training_to_training_mean"] + 0.1


@pytest.mark.shared
def test_a_foreign_detector_finds_every_picture_where_the_index_says() -> None:
    cv2 = pytest.importorskip("cv2")
    model = shared_folder() / "models" / "teacher" / "yunet_n_dynamic.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (PICTURE_SIDE, PICTURE_SIDE), 0.7)
    people = load_people()
    for who, number in product(PERSON_IDS, (1, 2, 3, 4)):
        rgba = np.asarray(people.picture(who, number)).astype(np.float32)
        matte = rgba[..., 3:] / 255
        rgb = (rgba[..., :3] * matte + 128 * (1 - matte)).astype(np.uint8)
        faces = detector.detect(np.ascontiguousarray(rgb[..., ::-1]))[1]
        assert faces is not None, f"{who}-{number}"
        assert len(faces) == 1
        x, y, w, h = faces[0, :4]
        assert (x, y, x + w, y + h) == pytest.approx(people.box, abs=16)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("scene", "time"), [("demo", 4.5), ("demo", 12), ("two-at-once", 4), ("backlight", 4), ("tiny-face", 3)]
)
def test_a_foreign_detector_finds_everybody_where_the_scene_says(scene: str, time: float) -> None:
    cv2 = pytest.importorskip("cv2")
    script = load_script(Path(__file__).parents[2] / "tools" / "scenes" / f"{scene}.yaml")
    renderer = SceneRenderer(script)
    number = round(time * script.frames_per_second)
    model = shared_folder() / "models" / "teacher" / "yunet_n_dynamic.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", script.size, 0.7)
    found = detector.detect(np.ascontiguousarray(renderer.frame(number)[..., ::-1]))[1]
    expected = renderer.placements(number)
    assert len(found) == len(expected)
    for place in expected:
        x, y, w, h = min(found[:, :4], key=lambda box: abs(box[0] + box[2] / 2 - place.x))
        assert (x + w / 2, y + h / 2) == pytest.approx((place.x, place.y), abs=0.08 * place.face)
        assert h == pytest.approx(place.face, rel=0.15)
