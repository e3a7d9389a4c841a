# SPDX-License-Identifier: Apache-2.0
"""The networks of one unit: which its configuration needs, loaded, verified and self-tested."""

from __future__ import annotations

import msgspec

from agent.camera.base import Frame
from agent.config.schema import Config
from agent.detect.detector import Detector, load_detector
from agent.detect.face import Face
from agent.embed.align import align
from agent.embed.embedder import Embedder, load_embedder
from agent.embed.records import Crop
from agent.errors import ModelError
from agent.inference.engine import Engine, load_engine
from agent.inference.manifest import load_manifest
from agent.unit.looking import make_view


class Models(msgspec.Struct, frozen=True):
    """Detector, embedder and, where it is required, the liveness network; verified and self-tested."""

    detector: Detector
    embedder: Embedder
    pad: Engine | None = None

    def align(self, frame: Frame, face: Face) -> Crop:
        """Aligned crop of a detected face, by its landmarks in the main picture."""
        return align(frame, self.detector.locate(frame, face))


def load_models(config: Config) -> Models:
    """All models that this configuration needs; raises ModelError."""
    models = config.models
    if not models.manifest.exists():
        raise ModelError(
            f"{models.manifest} does not exist: set models.manifest to the manifest that came with Postern"
        )
    listed = load_manifest(models.manifest)
    return Models(
        load_detector(listed, models.detector, models.threads, view=make_view(config)),
        load_embedder(listed, models.embedder, models.threads),
        load_engine(listed, models.pad, threads=models.threads) if "passive" in config.liveness_parts else None,
    )
