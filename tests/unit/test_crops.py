# SPDX-License-Identifier: Apache-2.0
"""How a face is cut out, from the camera's planes to what the networks see, as on the day of the shipped calibration.

Every threshold is of scores of such cuts, and no digest of a model tells when the code cuts otherwise. Where a test
here fails, cut as before; or, where the change is wanted: raise ``CROPS`` in ``agent/match/policy.py``, calibrate
``models/policy.json`` anew (models/README.md, "Train again"), and write down here what the cuts are now.
"""

from __future__ import annotations

import numpy as np
import pytest

from agent.camera.base import Frame, Picture, RgbPicture
from agent.camera.convert import BT709, YuvPicture
from agent.detect.face import Face
from agent.detect.landmarks import cut
from agent.embed.align import TEMPLATE, align
from agent.inference.golden import picture as golden_picture

WIDTH, HEIGHT = 640, 480
SEED = 1
SAMPLES = 22
ROUNDING = 1  # grey levels: what another machine's floating point may do to a pixel
SCALES = (0.6, 1.4, 3.4)  # of the template: enlarged, as it is, averaged down first
TILT = 0.3  # radians

# For each scale the crop, then the second look's patch of the size of that crop; at last the whole picture, small.
HELD: dict[str, list[list[int]]] = {
    "rgb": [
        [99, 192, 160, 9, 35, 249, 226, 241, 236, 174, 120, 102, 154, 146, 132, 202, 1, 213, 81, 81, 9, 204],
        [52, 52, 9, 69, 147, 185, 191, 241, 120, 163, 224, 2, 102, 141, 108, 81, 170, 39, 162, 153, 83, 48],
        [68, 80, 174, 71, 220, 172, 83, 5, 16, 193, 120, 3, 208, 179, 104, 108, 168, 241, 165, 130, 193, 166],
        [112, 185, 236, 161, 246, 98, 39, 36, 172, 230, 185, 71, 99, 142, 156, 142, 231, 90, 159, 195, 158, 46],
        [185, 198, 121, 122, 35, 160, 169, 44, 52, 97, 148, 146, 100, 136, 95, 176, 0, 23, 175, 105, 109, 0],
        [166, 187, 72, 206, 66, 67, 92, 185, 227, 43, 169, 116, 127, 140, 187, 103, 111, 70, 91, 78, 179, 71],
        [108, 29, 166, 212, 179, 61, 29, 13, 174, 228, 61, 82, 99, 180, 14, 32, 92, 249, 144, 195, 206, 63],
    ],
    "planes": [
        [25, 151, 173, 255, 92, 239, 0, 255, 229, 230, 0, 20, 139, 74, 19, 0, 2, 211, 229, 8, 179, 233],
        [0, 0, 0, 92, 188, 218, 216, 255, 0, 0, 210, 255, 24, 16, 89, 190, 137, 171, 132, 118, 40, 255],
        [0, 0, 77, 114, 255, 0, 12, 0, 162, 175, 255, 230, 186, 255, 70, 117, 181, 255, 217, 203, 22, 239],
        [108, 255, 215, 122, 42, 0, 0, 0, 214, 255, 0, 97, 105, 143, 122, 255, 155, 63, 80, 215, 168, 0],
        [209, 255, 144, 31, 153, 39, 165, 0, 255, 47, 254, 0, 255, 215, 108, 115, 58, 242, 255, 52, 104, 0],
        [205, 81, 158, 255, 56, 47, 87, 129, 75, 0, 121, 55, 91, 53, 213, 130, 45, 255, 97, 170, 0, 120],
        [255, 0, 103, 144, 207, 253, 191, 137, 107, 255, 147, 59, 32, 16, 255, 255, 255, 255, 181, 188, 159, 249],
    ],
}


def rgb() -> Picture:
    return RgbPicture(golden_picture(SEED, HEIGHT, WIDTH))


def planes() -> Picture:
    y, u, v = np.moveaxis(golden_picture(SEED, HEIGHT, WIDTH), 2, 0)
    return YuvPicture(np.ascontiguousarray(y), u[::2, ::2].copy(), v[::2, ::2].copy(), BT709)


def cuts(main: Picture) -> list[list[int]]:
    turn = np.array([[np.cos(TILT), -np.sin(TILT)], [np.sin(TILT), np.cos(TILT)]])
    centre = np.array([WIDTH * 0.47, HEIGHT * 0.52])
    shown = []
    for scale in SCALES:
        marks = ((TEMPLATE - 56) * scale @ turn.T + centre).astype(np.float32)
        frame = Frame(0, 0, np.zeros((1, 1, 3), np.uint8), main)
        shown += [align(frame, Face((0.0, 0.0, 1.0, 1.0), marks, 1.0)), cut(main, centre, 112.0 * scale)]
    shown.append(main.shrunk((0, 0, WIDTH, HEIGHT), (320, 240)))
    return [each.reshape(-1)[np.linspace(0, each.size - 1, SAMPLES).astype(int)].tolist() for each in shown]


@pytest.mark.parametrize("kind", [rgb, planes])
def test_faces_are_cut_as_when_the_shipped_policy_was_calibrated(kind) -> None:
    found, held = np.array(cuts(kind())), np.array(HELD[kind.__name__])
    assert np.abs(found - held).max() <= ROUNDING, "this moves every score: see the head of this file"
