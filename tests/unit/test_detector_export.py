# SPDX-License-Identifier: Apache-2.0
"""The exported detector computes what the trained network computes, and its file can become a network again."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIZE = (96, 64)  # width, height: a multiple of the coarsest stride
TOLERANCE = 1e-4
STEP = 0.05  # of an int8 logit, at most; random weights answer within +-6
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]  # TensorFlow's own imports warn

for extra in ("torch", "tensorflow", "cv2"):
    pytest.importorskip(extra, reason="needs the extra train")
torch = importlib.import_module("torch")
detector_net = importlib.import_module("tools.lib.train.detector_net")
embedder = importlib.import_module("tools.lib.train.embedder")
export_detector = importlib.import_module("tools.lib.train.export_detector")
from_tflite = importlib.import_module("tools.lib.train.from_tflite")
net = importlib.import_module("tools.lib.train.net")
score_detector = importlib.import_module("tools.lib.train.score_detector")


@pytest.fixture(scope="module")
def network() -> Any:
    """The detector with random weights, and norms that have seen random pictures."""
    torch.manual_seed(3)
    made = detector_net.DetectorNet()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the mean of all that it sees
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for _ in range(4):
            made(torch.rand(4, 3, SIZE[1], SIZE[0]) * 2 - 1)
    return made.eval()


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(5).integers(0, 256, (count, SIZE[1], SIZE[0], 3), dtype=np.uint8))


def answers(network: Any, picture: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        pairs = network(embedder.to_input(picture[None]))
    named = {}
    for stride, (logits, geometry) in zip(detector_net.STRIDES, pairs, strict=True):
        named[f"score_{stride}"] = logits[0].permute(1, 2, 0).numpy()
        named[f"geometry_{stride}"] = geometry[0].permute(1, 2, 0).numpy()
    return named


def test_the_float_file_answers_as_the_network(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "float.tflite"
    path.write_bytes(export_detector.export(network, SIZE, None))
    for picture in pictures(3):
        wanted, found = answers(network, picture), score_detector.Model(path).raw(picture)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=TOLERANCE, err_msg=name)


def test_the_int8_file_becomes_the_network_again(network: Any, tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    path.write_bytes(export_detector.export(network, SIZE, pictures(16)))
    again = detector_net.DetectorNet()
    from_tflite.load(again, path)
    for picture in pictures(3):
        wanted, found = answers(network, picture), answers(again, picture)
        for name, value in wanted.items():
            assert np.abs(found[name] - value).mean() < STEP, name


def test_a_strided_depthwise_layer_keeps_the_type_it_is_given() -> None:
    layer, x = net.Float32Conv(16, 16, 3, 2, 1, groups=16), torch.rand(2, 16, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert layer(x).dtype == torch.float32
