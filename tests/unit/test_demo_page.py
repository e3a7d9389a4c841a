# SPDX-License-Identifier: Apache-2.0
"""The page of the demo shows what detector and gate made of the scene, and nothing that a unit gave away."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from agent.config.load import load_config
from tools.lib.demo.picture import ADMITTED, FOUND, WIDTH, shots, write_page
from tools.lib.demo.site import DemoSite

SCRIPT = {
    "size": [640, 360],
    "frames_per_second": 6,
    "duration": 6,
    "background": {"kind": "room", "variant": 3},
    "people": [
        {"who": "person-01", "appears": 1.9, "leaves": 6, "path": [{"at": 1.9, "x": 320, "y": 160, "face": 120}]},
    ],
}


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.yaml"
    path.write_text(yaml.safe_dump(SCRIPT))
    return path


@pytest.fixture
def config(tmp_path: Path, scene: Path) -> Path:
    site = DemoSite(tmp_path)
    site.unit.mkdir()
    site.write_config(site.config, port=8883, protocol="5", scene=scene)
    return site.config


def has(jpeg: bytes, colour: tuple[int, int, int]) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), int)
    return bool((np.abs(pixels - colour).sum(2) < 90).sum() > 40)


def test_nobody_then_found_then_admitted(config: Path, scene: Path) -> None:
    seen = list(shots(load_config(config), scene))
    assert [(shot.found, shot.admitted) for shot in seen] == [(0, 0), (1, 0), (1, 1), (1, 1)]
    assert [has(shot.jpeg, ADMITTED) for shot in seen] == [False, False, True, True]
    assert [has(shot.jpeg, FOUND) for shot in seen] == [False, True, False, False]


def test_page_stands_alone_and_quotes_what_it_is_told(config: Path, scene: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, config, scene, [(0.0, "the unit: started"), (3.0, "<b>person-01</b> was matched")], "as expected")
    text = page.read_text()
    assert "&lt;b&gt;person-01&lt;/b&gt; was matched" in text
    assert not re.search(r"(src|href)=\"(?!data:image/jpeg;base64,)", text)
    pictures = re.findall(r"base64,([^\"]+)\"", text)
    assert len(pictures) == 4
    assert {Image.open(io.BytesIO(base64.b64decode(one))).width for one in pictures} == {WIDTH}
