# SPDX-License-Identifier: Apache-2.0
"""The detector is shown the zone where it is asked to be, and faces are told in pixels of the whole picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.camera.base import Frame, RgbPicture, lores_scale
from agent.camera.convert import BT601, YuvPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import parse_script
from agent.detect.detector import load_detector
from agent.detect.view import GOOD_INPUT_PX, ZoneView, smallest_input_px

MANIFEST = Path(__file__).parents[2] / "models" / "manifest.yaml"
INPUT = (320, 240)
PART = (0.4, 0.2, 0.6, 0.7)
share = st.floats(0, 1)


def picture(x: float, y: float, face: float) -> RgbPicture:
    person = {"who": "person-01", "path": [{"at": 0, "x": x, "y": y, "face": face}]}
    script = {"size": [1280, 720], "duration": 1, "background": {"kind": "room", "variant": 11}, "people": [person]}
    return RgbPicture(SceneRenderer(parse_script(yaml.safe_dump(script).encode(), Path("scene.yaml"))).frame(0))


def frame(main: RgbPicture) -> Frame:
    return Frame(0, 0, main.shrunk((0, 0, main.width, main.height), INPUT), main)


@given(st.tuples(share, share), st.tuples(share, share), st.integers(32, 2000), st.tuples(*[st.integers(16, 4000)] * 2))
def test_the_view_lies_within_the_picture_and_holds_the_zone(
    across: tuple[float, float], down: tuple[float, float], least: int, size: tuple[int, int]
) -> None:
    part = (min(across), min(down), max(across), max(down))
    x0, y0, x1, y1 = ZoneView(part, least).box(size, INPUT)
    assert 0 <= x0 < x1 <= size[0]
    assert 0 <= y0 < y1 <= size[1]
    assert x0 <= part[0] * size[0]
    assert x1 + 1 >= part[2] * size[0]
    assert y0 <= part[1] * size[1]
    assert y1 + 1 >= part[3] * size[1]


def test_the_smallest_face_is_shown_as_large_as_it_needs_to_be() -> None:
    size, least = (1920, 1080), 80
    box = ZoneView((0.45, 0.4, 0.55, 0.6), least).box(size, INPUT)
    assert smallest_input_px(box, INPUT, least) == pytest.approx(GOOD_INPUT_PX, rel=0.02)
    assert smallest_input_px((0, 0, *size), INPUT, least) == pytest.approx(least * lores_scale(*size, *INPUT))


def test_a_face_stands_where_the_whole_picture_has_it() -> None:
    seen = frame(picture(640, 330, 170))
    (whole,) = load_detector(MANIFEST, "detector-320x240").detect(seen)
    (close,) = load_detector(MANIFEST, "detector-320x240", view=ZoneView(PART, 80)).detect(seen)
    assert close.box == pytest.approx(whole.box, abs=12)
    assert np.abs(close.landmarks - whole.landmarks).max() < 8


def test_a_face_that_the_whole_picture_does_not_resolve_is_found_in_the_zone() -> None:
    seen = frame(picture(640, 330, 34))
    assert load_detector(MANIFEST, "detector-320x240").detect(seen) == []
    (close,) = load_detector(MANIFEST, "detector-320x240", view=ZoneView(PART, 32)).detect(seen)
    assert close.box[0] < 640 < close.box[2]


def test_of_a_camera_s_own_planes_the_view_is_the_same() -> None:
    rng = np.random.default_rng(3)
    y = rng.integers(80, 160, (120, 160), np.uint8)
    u, v = (rng.integers(120, 136, (60, 80), np.uint8) for _ in "uv")
    yuv, box = YuvPicture(y, u, v, BT601), (40, 20, 120, 80)
    rgb = RgbPicture(yuv.window(0, 0, 160, 120))
    assert np.abs(yuv.shrunk(box, (40, 40)).astype(int) - rgb.shrunk(box, (40, 40))).mean() < 3
    assert (yuv.luma(box, 4) == y[20:80:4, 40:120]).all()
