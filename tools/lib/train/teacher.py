# SPDX-License-Identifier: Apache-2.0
"""The teachers, run with ONNX Runtime or OpenCV: MobileFaceNet (embeddings, feature maps), YuNet, and MiniFASNet."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import onnxruntime as ort

# Feature maps of foamliu's MobileFaceNet at 14x14 and 7x7: the outputs of its linear bottlenecks.
MAP14 = "/features/features.11/Add_output_0"
MAP7 = "/features/features.14/Add_output_0"
# torchvision's ImageNet statistics, which this teacher was trained with (0-255 scale, RGB).
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255
# Five landmarks of the 112x112 ArcFace template (Deng et al. 2019): eyes, nose, mouth corners; image left to right.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)


def session(model: bytes | str) -> ort.InferenceSession:
    """A single-threaded session: generation runs one process per core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Targets(NamedTuple):
    """What the student imitates, for a batch of n crops: float32 (n,128), (n,14,14,128), (n,7,7,128)."""

    embedding: np.ndarray
    map14: np.ndarray
    map7: np.ndarray


class EmbeddingTeacher:
    """MobileFaceNet with its 14x14 and 7x7 maps exposed as outputs."""

    def __init__(self, folder: Path) -> None:
        model = onnx.load(str(folder / "MobileFaceNet.onnx"))
        for name in (MAP14, MAP7):
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        self._session = session(model.SerializeToString())
        self._input = self._session.get_inputs()[0].name
        self._output = [self._session.get_outputs()[0].name, MAP14, MAP7]

    def __call__(self, crops: np.ndarray) -> Targets:
        """uint8 RGB (n,112,112,3) to targets."""
        x = np.ascontiguousarray(((crops.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2))
        embedding, map14, map7 = zip(
            *(self._session.run(self._output, {self._input: one[None]}) for one in x), strict=True
        )
        return Targets(
            np.concatenate(embedding),
            np.concatenate(map14).transpose(0, 2, 3, 1),
            np.concatenate(map7).transpose(0, 2, 3, 1),
        )


class DetectionTeacher:
    """YuNet through OpenCV: rows of x, y, w, h, five landmarks, score (float32, n x 15), in pixels."""

    def __init__(self, folder: Path, threshold: float = 0.6) -> None:
        self._net = cv2.FaceDetectorYN.create(str(folder / "yunet_n_dynamic.onnx"), "", (320, 320), threshold, 0.3)

    def __call__(self, bgr: np.ndarray) -> np.ndarray:
        self._net.setInputSize((bgr.shape[1], bgr.shape[0]))
        faces = self._net.detect(bgr)[1]
        return np.zeros((0, 15), np.float32) if faces is None else faces


class LivenessTeacher:
    """Silent-Face's MiniFASNetV2 (2.7 faces around) and V1SE (4 faces): how sure each is that a face is alive."""

    def __init__(self, folder: Path) -> None:
        files = ((2.7, "2.7_80x80_MiniFASNetV2.onnx"), (4.0, "4_0_0_80x80_MiniFASNetV1SE.onnx"))
        self._nets = [(reach, session(str(folder / name))) for reach, name in files]

    def __call__(self, rgb: np.ndarray, box: np.ndarray) -> list[float]:
        """A share in [0, 1] from each; ``box`` x0, y0, x1, y1 in pixels of ``rgb``."""
        height, width = rgb.shape[:2]
        x0, y0, x1, y1 = (float(v) for v in box)
        answers = []
        for reach, net in self._nets:
            reach = min(reach, (width - 1) / (x1 - x0), (height - 1) / (y1 - y0))  # noqa: PLW2901 - as published
            half_w, half_h = (x1 - x0) * reach / 2, (y1 - y0) * reach / 2
            left = int(min(max((x0 + x1) / 2 - half_w, 0), width - 1 - 2 * half_w))
            top = int(min(max((y0 + y1) / 2 - half_h, 0), height - 1 - 2 * half_h))
            part = rgb[top : int(top + 2 * half_h) + 1, left : int(left + 2 * half_w) + 1, ::-1]
            seen = cv2.resize(part, (80, 80)).astype(np.float32).transpose(2, 0, 1)[None]
            (logits,) = net.run(None, {net.get_inputs()[0].name: seen})
            shares = np.exp(logits[0] - logits[0].max())
            answers.append(float(shares[1] / shares.sum()))
        return answers
