# SPDX-License-Identifier: Apache-2.0
"""Peers behind the interfaces of the product: OpenCV's YuNet as detector, an ONNX MobileFaceNet as embedder.

They need the ``bench`` extra, run on one thread, and see the same pictures and crops.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.embed.records import Crop, Embedding

YUNET_SCORE = 0.6  # FaceDetectorYN's usual working point for measuring recall at few false faces
YUNET_NMS_IOU = 0.3  # OpenCV's default
MAX_FACES = 5000  # OpenCV's default for top_k

# torchvision's ImageNet statistics on 0 to 255, RGB: the normalisation of foamliu's MobileFaceNet.
MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
STD = np.array([0.229, 0.224, 0.225], np.float32) * 255


class FindsFaces(Protocol):
    """A detector of the product or a peer."""

    @property
    def input_size(self) -> tuple[int, int]: ...
    def detect(self, frame: Frame, *, exact: bool = True) -> list[Face]: ...
    def locate(self, frame: Frame, face: Face) -> Face: ...


class Embeds(Protocol):
    """An embedder of the product or a peer."""

    def embed(self, crop: Crop) -> Embedding: ...


class YuNet:
    """FaceDetectorYN on the full picture."""

    input_size = (16, 16)  # lores is not looked at

    def __init__(self, model: Path, score_threshold: float | None = None) -> None:
        import cv2  # noqa: PLC0415 - the bench extra, only for this peer

        cv2.setNumThreads(1)
        threshold = YUNET_SCORE if score_threshold is None else score_threshold
        self._detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), threshold, YUNET_NMS_IOU, MAX_FACES)

    def detect(self, frame: Frame, *, exact: bool = True) -> list[Face]:  # noqa: ARG002 - it always is
        """Return the faces, best first."""
        main = frame.main
        bgr = np.ascontiguousarray(main.window(0, 0, main.width, main.height)[..., ::-1])
        self._detector.setInputSize((main.width, main.height))
        found = self._detector.detect(bgr)[1]
        rows = [] if found is None else found[np.argsort(-found[:, 14])]
        return [Face((r[0], r[1], r[0] + r[2], r[1] + r[3]), r[4:14].reshape(5, 2), float(r[14])) for r in rows]

    def locate(self, frame: Frame, face: Face) -> Face:  # noqa: ARG002 - the frame was searched in full
        """Return ``face``: there is no second look."""
        return face


class OnnxEmbedder:
    """An ONNX embedder of 112x112 RGB crops with ImageNet normalisation, planes first."""

    def __init__(self, model: Path) -> None:
        import onnxruntime  # noqa: PLC0415 - likewise

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._name = model.name

    def embed(self, crop: Crop) -> Embedding:
        """Return the unit-length embedding."""
        pixels = ((crop - MEAN) / STD).transpose(2, 0, 1)[None]
        output: NDArray[Any] = self._session.run(None, {self._input: pixels})[0]
        vector = output.reshape(-1).astype(np.float32)
        return Embedding(vector / max(float(np.linalg.norm(vector)), 1e-12), self._name)
