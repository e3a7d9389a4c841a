# SPDX-License-Identifier: Apache-2.0
"""No face leaves by the console's pictures: not by type, not by a miss of the detector, not when it fills the picture.

POSTERN_FACES=1000 is the long form; 'tools/evaluate cover' measures the same on photos, with a peer that looks at what
leaves.
"""

from __future__ import annotations

import ast
import os
import random
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from agent.camera.base import Frame, RgbPicture
from agent.detect.cover import FEW, FLAT_CELLS, MAX_SIDE, UNSURE, Area, CoveredPicture, Covering, covered
from agent.detect.detector import Detector, load_detector
from agent.detect.face import Face
from agent.unit.watching import told
from tools.lib.evaluate.cover import Counts, background, compose, drawn_people

ROOT = Path(__file__).parents[2]
FACES = int(os.environ.get("POSTERN_FACES", "30"))
# What works with pictures for the length of a frame, or keeps numbers that are none: references, encrypted.
WITH_ARRAYS = ("camera", "detect", "embed", "inference", "gallery")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector(ROOT / "models" / "manifest.yaml", "detector-320x240")


@pytest.mark.timeout(600)
def test_of_faces_of_all_sizes_turned_and_badly_lit_none_is_left_to_be_recognised(detector: Detector) -> None:
    draw, covering, counts = random.Random(7), Covering(detector), Counts()
    people = list(drawn_people())
    for _ in range(FACES):
        counts.look(compose(draw.choice(people), background(draw, []), draw), covering, None)
    assert counts.large > FACES / 4, "this test would show nothing"
    assert counts.left == 0


def test_a_face_that_no_look_finds_is_coarse_and_one_that_was_followed_is_covered(detector: Detector) -> None:
    picture = RgbPicture(np.random.default_rng(1).integers(0, 255, (720, 1280, 3), np.uint8))
    frame = Frame(0, 0, picture.shrunk((0, 0, 1280, 720), (320, 240)), picture)
    covering = Covering(detector)
    plain = covering.cover(frame).pixels
    assert max(plain.shape) <= MAX_SIDE, "whatever the camera's size, no more leaves"
    known = Face((320.0, 180.0, 640.0, 540.0), np.zeros((5, 2), np.float32), 0.9)
    followed = covering.cover(frame, [known]).pixels
    inside = followed[8:18, 13:23]
    assert (inside == inside[0, 0]).all(), "one colour, whatever the detector saw in this frame"
    assert not (plain[8:18, 13:23] == plain[8, 13]).all()


def test_what_may_be_a_face_is_left_with_nine_means() -> None:
    noise = np.random.default_rng(2).integers(0, 255, (36, 48, 3), np.uint8)
    unsure = covered(noise, [Area(0.25, 0.25, 0.75, 0.75, FEW)])
    assert len({tuple(one) for one in unsure[5:31, 4:44].reshape(-1, 3).tolist()}) <= 9
    sure = covered(noise, [Area(0.25, 0.25, 0.75, 0.75, FLAT_CELLS), Area(0.3, 0.3, 0.7, 0.7, FEW)])
    assert len({tuple(one) for one in sure[6:30, 5:43].reshape(-1, 3).tolist()}) == 1, "an unsure one uncovers nothing"
    assert 0 < UNSURE < 0.81, "below what the detector itself calls a face"


def test_nobody_but_the_covering_can_make_a_picture_that_may_leave() -> None:
    with pytest.raises(TypeError):
        CoveredPicture(object(), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(TypeError):
        CoveredPicture(None, np.zeros((MAX_SIDE + 1, 10, 3), np.uint8))
    makers = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "agent").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("CoveredPicture")
    ]
    assert makers == ["agent/detect/cover.py"]


def test_one_place_writes_pixels_down_and_it_takes_a_covered_picture_alone(detector: Detector) -> None:
    """``tobytes`` is how an array becomes bytes, and an image library the other way."""
    callers = {
        path.relative_to(ROOT / "agent").as_posix()
        for path in sorted((ROOT / "agent").rglob("*.py"))
        if path.relative_to(ROOT / "agent").parts[0] not in WITH_ARRAYS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"tobytes", "tofile", "imwrite", "fromarray"}
    }
    assert callers == {"unit/watching.py"}
    assert get_type_hints(told)["picture"] is CoveredPicture
    picture = RgbPicture(np.zeros((240, 320, 3), np.uint8))
    spelt = told(Covering(detector).cover(Frame(0, 0, picture.array, picture)))
    assert set(spelt) == {"width", "height", "rgb"}
