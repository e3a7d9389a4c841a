# SPDX-License-Identifier: Apache-2.0
"""The stages of the product in their order, timed, on one picture after the other."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Frame
from agent.detect.detector import Detector, load_detector
from agent.detect.face import Face
from agent.embed.align import align
from agent.embed.embedder import Embedder
from agent.embed.records import EMBEDDING_DIM, Crop
from agent.errors import RefusedError
from agent.inference.engine import Engine, load_engine
from agent.match.probe import both_ways
from tools.lib.evaluate import metrics, pictures
from tools.lib.evaluate.arguments import existing_file
from tools.lib.evaluate.peers import Embeds, FindsFaces, OnnxEmbedder, YuNet

DEFAULT_MANIFEST = Path(__file__).resolve().parents[3] / "models" / "manifest.yaml"
PROGRESS_EVERY_S = 5.0
TREMBLE = 0.01  # pixels: what no eye sees, but enough to round pixels of the crop otherwise
CENTRAL = 0.5  # a face counts as the subject's from half the area of the largest


def add_model_arguments(parser: argparse.ArgumentParser, *, embedder: bool = True) -> None:
    parser.add_argument("--models", type=Path, default=DEFAULT_MANIFEST, help="manifest; default: models/manifest.yaml")
    parser.add_argument("--detector-name", default="detector-320x240", help="default: %(default)s")
    parser.add_argument("--detector", type=existing_file, metavar="YUNET.onnx", help="measure this peer instead")
    parser.add_argument("--score-threshold", type=float, help="of the detector; default: its working point")
    if embedder:
        parser.add_argument("--embedder-name", default="embedder", help="default: %(default)s")
        parser.add_argument("--embedder", type=existing_file, metavar="PEER.onnx", help="measure this peer instead")


class Times:
    """Processor time of each stage of each picture, in milliseconds: everything runs on the calling thread.

    Wall time would be that of whatever else the machine does.
    """

    def __init__(self) -> None:
        self._stages: dict[str, list[float]] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        began = time.thread_time()
        yield
        self._stages.setdefault(stage, []).append((time.thread_time() - began) * 1e3)

    def summary(self) -> dict[str, dict[str, float]]:
        """Median and 95th percentile per stage, in milliseconds."""
        return {
            stage: dict(zip(("p50", "p95"), metrics.quantiles(np.array(values)), strict=True))
            for stage, values in self._stages.items()
        }


class Finder:
    """The detector, of the product or a peer."""

    exact = True  # landmarks are looked at
    again = False  # a second try where nobody is found, as a unit makes

    def __init__(self, args: argparse.Namespace) -> None:
        self.times = Times()
        self.names: dict[str, str] = {}
        self.detector = self._detector(args)

    def _detector(self, args: argparse.Namespace) -> FindsFaces:
        if args.detector:
            self.names["detector"] = args.detector.name
            return YuNet(args.detector, args.score_threshold)
        detector = load_detector(args.models, args.detector_name, score_threshold=args.score_threshold)
        self._note(detector.engine, "detector")
        if detector.landmarker is not None:
            self._note(detector.landmarker.engine, "landmarks")
        return detector

    def _note(self, engine: Engine, role: str) -> None:
        self.names[role] = f"{engine.entry.name} {engine.digest[:19]}"
        self.names["runtime"] = engine.runtime

    def faces(self, path: Path) -> tuple[Frame, list[Face]]:
        """Decode a picture and find its faces."""
        with self.times.measure("decode"):
            frame = pictures.load(path, self.detector.input_size)
        with self.times.measure("detect"):
            return frame, self._detect(frame)

    def look(self, picture: Image.Image) -> tuple[Frame, list[Face]]:
        """Find the faces of a picture in memory."""
        frame = pictures.as_frame(picture, self.detector.input_size)
        with self.times.measure("detect"):
            return frame, self._detect(frame)

    def _detect(self, frame: Frame) -> list[Face]:
        faces = self.detector.detect(frame, exact=self.exact)
        return self.detector.again(frame) if self.again and not faces and isinstance(self.detector, Detector) else faces


@dataclass(frozen=True, slots=True)
class Views:
    """Vectors of pictures (n, 128), and their cosine to the mirror images' (n,); NaN: no face."""

    vectors: NDArray[np.float32]
    mirror: NDArray[np.float32]

    def admitted(self, limit: float) -> NDArray[np.float32]:
        """The vectors, NaN also where the mirror image agrees by less than ``limit``."""
        admitted = self.vectors.copy()
        admitted[~(self.mirror >= limit)] = np.nan
        return admitted


class Recogniser(Finder):
    """Detector, alignment and embedder, of the product or of peers."""

    exact = False  # as in a unit, landmarks are placed when a face is aligned

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.embedder = self._embedder(args)
        self.tremble: np.random.Generator | None = None  # moves each landmark by ``TREMBLE``

    def _embedder(self, args: argparse.Namespace) -> Embeds:
        if args.embedder:
            self.names["embedder"] = args.embedder.name
            return OnnxEmbedder(args.embedder)
        engine = load_engine(args.models, args.embedder_name)
        self._note(engine, "embedder")
        return Embedder(engine)

    def embedding(self, frame: Frame, face: Face) -> NDArray[np.float32]:
        """Align and embed one face: (128,), unit length."""
        return self.embed(self.crop(frame, face))

    def crop(self, frame: Frame, face: Face) -> Crop:
        with self.times.measure("align"):
            face = self.detector.locate(frame, face)
            if self.tremble is not None:
                moved = face.landmarks + self.tremble.normal(0, TREMBLE, face.landmarks.shape).astype(np.float32)
                face = replace(face, landmarks=moved)
            return align(frame, face)

    def embed(self, crop: Crop) -> NDArray[np.float32]:
        with self.times.measure("embed"):
            return self.embedder.embed(crop).vector

    def both_ways(self, paths: Sequence[Path], cache: Path | None = None) -> Views:
        """Embed the subject of each picture, and ask the mirror image whether it agrees, as a unit does with a crop.

        ``cache`` keeps the result: it is read if it is there, and refused if it is of other pictures or models.
        """
        names = np.array([str(path) for path in paths])
        models = np.array([f"{role} {name}" for role, name in sorted(self.names.items())])
        if cache is not None and cache.exists():
            with np.load(cache) as held:
                if not (np.array_equal(held["names"], names) and np.array_equal(held["models"], models)):
                    raise RefusedError(f"{cache} holds vectors of other pictures or models: name another file")
                return Views(held["vectors"], held["mirror"])
        views = Views(np.full((len(paths), EMBEDDING_DIM), np.nan, np.float32), np.full(len(paths), np.nan, np.float32))
        for index, path in enumerate(progress(paths)):
            frame, faces = self.faces(path)
            if faces:
                with self.times.measure("align"):
                    crop = align(frame, self.detector.locate(frame, subject(frame, faces)))
                with self.times.measure("embed"):
                    seen = both_ways(self.embedder.embed, crop)
                views.vectors[index], views.mirror[index] = seen.embedding.vector, seen.mirror
        if cache is not None:
            np.savez(cache, names=names, models=models, vectors=views.vectors, mirror=views.mirror)
        return views

    def embeddings(self, paths: Sequence[Path]) -> NDArray[np.float32]:
        """Embed the subject of each picture: (n, 128), a row of NaN where no face is found."""
        rows = np.full((len(paths), EMBEDDING_DIM), np.nan, np.float32)
        for index, path in enumerate(progress(paths)):
            frame, faces = self.faces(path)
            if faces:
                rows[index] = self.embedding(frame, subject(frame, faces))
        return rows


def subject(frame: Frame, faces: Sequence[Face]) -> Face:
    """Return whom a portrait is of: of the faces at least half as large as the largest, the one nearest the middle."""
    largest = max(face.width * face.height for face in faces)
    middle = np.array([frame.main.width, frame.main.height]) / 2

    def distance(face: Face) -> float:
        return float(np.hypot(*((np.array(face.box[:2]) + face.box[2:]) / 2 - middle)))

    return min((face for face in faces if face.width * face.height >= CENTRAL * largest), key=distance)


def progress(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the paths and tell standard error how far they are."""
    told = began = time.monotonic()
    for index, path in enumerate(paths):
        yield path
        now = time.monotonic()
        if now - told >= PROGRESS_EVERY_S or index + 1 == len(paths):
            told = now
            print(f"{index + 1}/{len(paths)} pictures, {now - began:.0f} s", file=sys.stderr)
