# SPDX-License-Identifier: Apache-2.0
"""The installer is told what the detector will not resolve, and what moves all day where people act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.config.load import load_config
from agent.config.schema import Config
from agent.errors import ConfigError
from agent.unit.doctor import tell_looking
from agent.unit.looking import foreseen, make_change_test, make_view, resolution
from tests.simulators.config import example

ROOT = Path(__file__).parents[2]
BUTTON = {"kind": "button", "name": "door"}
INPUT = (320, 240)
CAMERA = CameraInfo("v4l2", 1280, 720, 15.0, live=True)


def configured(folder: Path, *, least: int = 80, activation: dict[str, Any] | None = None, **detection: str) -> Config:
    data = example()
    data["models"]["manifest"] = str(ROOT / "models" / "manifest.yaml")
    data["camera"] = {"source": "v4l2", "device": "/dev/video0", "width": 1280, "height": 720}
    data["activation"] = activation or {**data["activation"], "min_face_px": least}
    data["detection"] = detection
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_config(path)


def test_a_face_that_the_input_does_not_resolve_is_told_with_each_way_out(tmp_path: Path) -> None:
    said = foreseen(configured(tmp_path, least=40))
    assert "faces of 40 px have 10 pixels in the detector's input of 320x240, too few" in said
    assert "raise activation.min_face_px to 96, set detection.view to 'zone', or choose a detector" in said
    assert foreseen(configured(tmp_path)) == "the picture; the smallest accepted face has 20 pixels there"


def test_the_zone_resolves_what_the_picture_does_not(tmp_path: Path) -> None:
    config = configured(tmp_path, least=40, view="zone")
    view = make_view(config)
    assert view is not None
    pixels, _ = resolution(config, (1280, 720), INPUT)
    assert pixels > 10
    large = configured(tmp_path, least=32, view="zone")
    assert "make the zone smaller" in (resolution(large, (3840, 2160), INPUT)[1] or "")


def test_a_button_has_no_zone_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"detection\.view: a button has no zone to look at"):
        configured(tmp_path, activation=BUTTON, view="zone")
    assert make_view(configured(tmp_path, activation=BUTTON)) is None


def frames(count: int, *, flicker: int = 0) -> list[Frame]:
    pictures = (np.full((720, 1280, 3), 120, np.uint8) for _ in range(count))
    made = []
    for number, picture in enumerate(pictures):
        picture[300:400, 600:700] += np.uint8(flicker * (number % 2))
        made.append(Frame(number, number * 66_000_000, np.zeros((240, 320, 3), np.uint8), RgbPicture(picture)))
    return made


@pytest.mark.parametrize(("flicker", "state"), [(0, "ok"), (40, "advice")])
def test_doctor_says_how_often_the_detector_had_to_look(tmp_path: Path, flicker: int, state: str) -> None:
    config = configured(tmp_path)
    change = make_change_test(config, hold_ns=0)
    for frame in frames(30, flicker=flicker):
        change.is_due(frame, busy=False)
    (first, text), *_ = tell_looking(config, change, CAMERA, INPUT)
    assert first == state
    assert text.startswith(f"the detector had to look at {change.looked} of 30 frames")


def test_where_every_frame_is_asked_for_none_is_skipped(tmp_path: Path) -> None:
    change = make_change_test(configured(tmp_path, look="every_frame"))
    assert all(change.is_due(frame, busy=False) for frame in frames(60))
