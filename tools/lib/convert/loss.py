# SPDX-License-Identifier: Apache-2.0
"""What the int8 model lost against the float one, and how much it may lose.

Both run as a unit would run them: same pictures, same decoder, same suppression, same normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.camera.base import Frame, Rgb, RgbPicture
from agent.detect.detector import Detector
from agent.embed.embedder import Embedder
from agent.embed.records import EMBEDDING_DIM, Crop
from agent.errors import ModelError
from agent.inference.engine import Engine
from agent.inference.manifest import ModelEntry
from tools.lib.convert.material import crop_of
from tools.lib.evaluate import verification
from tools.lib.evaluate.detection import Comparison
from tools.lib.evaluate.recogniser import Times, progress

# Each limit is what a site would not notice; --max-loss and its companions change them.
MAX_COSINE_LOSS = 0.03  # 1 - cosine; two pictures of one person lie ten times as far apart
MAX_ACCURACY_LOSS = 0.003  # of pairs: 0.3 points, within the deviation of LFW's ten folds
MAX_FACE_LOSS = 0.05  # of faces missed or invented; a face is seen in many frames, so one in twenty costs no visit
MAX_LANDMARK_LOSS = 0.05  # of the eye distance: under two pixels of the aligned crop, within what embedders tolerate
DEFAULT_LIMITS = {"embedder": MAX_COSINE_LOSS, "detector": MAX_FACE_LOSS}
MIN_FACES = 20  # below that one face is more than the limit
FOLD_SEED = 0  # as in tools/evaluate


class Answers(Protocol):
    """A float model: outputs by the names of the decoder."""

    def run(self, picture: Rgb) -> dict[str, NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """One measured loss beside the most it may be."""

    what: str
    loss: float
    allowed: float


def check_limits(limits: Sequence[Limit]) -> None:
    """Raise ModelError naming each loss above its limit, or not a number."""
    broken = [limit for limit in limits if not limit.loss <= limit.allowed]
    if broken:
        said = "; ".join(f"{item.what} is {item.loss:.4g}, at most {item.allowed:g} is allowed" for item in broken)
        raise ModelError(
            f"int8 loses too much: {said}. Nothing was written. Give more representative pictures, check --mean, "
            "--std and --colour, or train the model with quantisation in mind"
        )


class FloatEngine:
    """The ONNX model in the place of an engine, so that decoders and embedders see no difference."""

    def __init__(self, entry: ModelEntry, model: Answers) -> None:
        outputs = {
            name: msgspec.structs.replace(spec, dtype="float32", scale=0.0, zero_point=0)
            for name, spec in entry.outputs.items()
        }
        self.entry = msgspec.structs.replace(entry, outputs=outputs)
        self.digest = entry.digest
        self._model = model

    def run(self, image: Rgb) -> dict[str, NDArray[np.float32]]:
        """Return all outputs in the shapes of the entry."""
        return {name: value.reshape(self.entry.outputs[name].shape) for name, value in self._model.run(image).items()}

    def dequantise(self, _name: str, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return raw.copy()


def float_engine(engine: Engine, model: Answers) -> Engine:
    """The float model where ``engine`` would be: an Engine as far as decoders and embedders look."""
    return cast("Engine", FloatEngine(engine.entry, model))


class Embedders:
    """The int8 embedder and the float one."""

    def __init__(self, engine: Engine, model: Answers) -> None:
        """Raise ModelError when a unit could not use the model."""
        self.times = Times()
        self._int8, self._float = Embedder(engine), Embedder(float_engine(engine, model))

    def embed(self, crop: Crop) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return both unit-length embeddings, int8 first."""
        with self.times.measure("int8"):
            quantised = self._int8.embed(crop).vector
        with self.times.measure("float"):
            full = self._float.embed(crop).vector
        return quantised, full

    def cosine(self, crops: Sequence[Crop], allowed: float) -> tuple[dict[str, Any], Limit]:
        """Compare the two embeddings of every crop."""
        cosines = np.array([float(a @ b) for a, b in map(self.embed, crops)])
        figures = {
            "held_out_faces": len(crops),
            "mean_cosine": float(cosines.mean()),
            "lowest_cosine": float(cosines.min()),
        }
        return figures, Limit("1 - mean cosine to the float embedding", 1 - float(cosines.mean()), allowed)

    def verify(
        self, pairs: Path, folder: Path, detector: Detector | None, allowed: float
    ) -> tuple[dict[str, Any], Limit]:
        """Compare the accuracy over listed pairs, by the protocol of ``tools/evaluate verification``."""
        listed = verification.read_pairs(pairs, None)
        names = sorted({*listed[0], *listed[1]})
        vectors = np.full((2, len(names), EMBEDDING_DIM), np.nan, np.float32)
        for row, path in enumerate(progress([folder / name for name in names])):
            crop = crop_of(path, detector)
            if crop is not None:
                vectors[:, row] = self.embed(crop)
        wanted = ("pairs", "failed_to_detect", "accuracy", "accuracy_deviation", "equal_error_rate", "tar_at_far")
        both = [verification.figures(side, names, listed, FOLD_SEED) for side in vectors]
        figures = {
            name: {key: item for key, item in side.items() if key in wanted}
            for name, side in zip(("verification_int8", "verification_float"), both, strict=True)
        }
        lost = both[1]["accuracy"] - both[0]["accuracy"]
        return figures, Limit("the share of pairs decided rightly by float, less that by int8,", lost, allowed)


def compare_detectors(
    engine: Engine, model: Answers, images: Sequence[Rgb], face_loss: float, landmark_loss: float
) -> tuple[dict[str, Any], list[Limit]]:
    """Compare the faces found in pictures of the input size; raises ModelError for too few of them."""
    int8, full = Detector(engine), Detector(float_engine(engine, model))
    times, found_again, invented = Times(), Comparison(), Comparison()
    for image in images:
        frame = Frame(0, 0, image, RgbPicture(image))
        with times.measure("int8"):
            mine = int8.detect(frame)
        with times.measure("float"):
            theirs = full.detect(frame)
        found_again.add(mine, theirs)
        invented.add(theirs, mine)
    again, back = found_again.summary(), invented.summary()
    if again["faces"] < MIN_FACES:
        raise ModelError(
            f"the float model finds {again['faces']} faces in the {len(images)} pictures held out; {MIN_FACES} are "
            "needed: give more pictures with faces, and check --mean, --std and --colour"
        )
    figures = {
        "held_out_pictures": len(images),
        "faces_of_float": again["faces"],
        "share_found_again": again["share_found"],
        "faces_of_int8": back["faces"],
        "share_also_of_float": back["share_found"],
        "landmark_difference": again.get("landmark_error", float("inf")),
        "landmark_difference_p95": again.get("landmark_error_p95", float("inf")),
        "cpu_milliseconds": times.summary(),
    }
    missed, extra = 1 - again["share_found"], 1 - back["share_found"]
    return figures, [
        Limit("the share of the float model's faces that are missed", missed, face_loss),
        Limit("the share of faces that the float model does not see", extra, face_loss),
        Limit("the mean difference of landmarks in eye distances", figures["landmark_difference"], landmark_loss),
    ]
