# SPDX-License-Identifier: Apache-2.0
"""Stands for the models where no frame is ever shown to an enrolment: the fuzzer's, the kills' and the tests' units."""

from __future__ import annotations

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.embed.records import Crop, Embedding


class NoCamera:
    """Whoever asks it for a crop or an embedding has found an error: it raises AssertionError."""

    @property
    def embedder(self) -> NoCamera:
        return self

    def embed(self, crop: Crop) -> Embedding:
        raise AssertionError(crop)

    def align(self, frame: Frame, face: Face) -> Crop:
        raise AssertionError((frame, face))
