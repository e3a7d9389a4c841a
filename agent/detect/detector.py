# SPDX-License-Identifier: Apache-2.0
"""Faces in a frame: fit the small picture to the model, run it, decode, suppress, look again, map to the main picture.

The second look (``agent.detect.landmarks``) happens where the manifest gives the detector a landmark model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import LORES_BORDER, Frame, Rgb, RgbPicture, lores_scale
from agent.detect.decoders import make_decoder
from agent.detect.decoders.common import Candidates
from agent.detect.face import Face
from agent.detect.landmarks import Landmarker
from agent.detect.nms import Box, blend, nms, overlaps
from agent.detect.view import ZoneView
from agent.errors import ModelError
from agent.inference.engine import Engine, load_engine
from agent.inference.manifest import Manifest, detector_digest, load_manifest

DEFAULT_SCORE_THRESHOLD = 0.6  # where the manifest entry states no working point
DEFAULT_NMS_IOU = 0.4  # two faces side by side overlap less, two answers to one face more (SCRFD's value)
DEFAULT_MAX_FACES = 32  # faces a frame: more than fit legibly into 320x240; bounds all later work
# Score from which the first look may stand alone: the shipped detectors gave none of 303 photos without a face 0.8.
TRUSTED = 0.9
# Score and overlap from which the first look suffices for a face that was there in the last look, of which nothing
# is to be decided: whoever is followed is not lost, and nobody else is taken for them beyond the next crop.
KNOWN_SCORE, KNOWN_IOU = 0.6, 0.5
FARTHER = 1.5  # how much smaller a second try shows the picture
MIN_SPREAD = 1.0  # input pixels between the outermost landmarks; below that there is nothing to align


class Detector:
    """A detector model with its decoder. Single-threaded, like its engine.

    ``frame.lores`` relates to the main picture as ``lores_scale`` says. At the model's input size it is used as it is;
    any other size is scaled uniformly to the top left of the input, with the same border. With a ``view`` the input is
    made of that part of the main picture instead.
    """

    def __init__(
        self,
        engine: Engine,
        landmarker: Landmarker | None = None,
        *,
        score_threshold: float | None = None,
        nms_iou: float = DEFAULT_NMS_IOU,
        max_faces: int = DEFAULT_MAX_FACES,
        view: ZoneView | None = None,
    ) -> None:
        """Raise ModelError when the engine's outputs do not fit its decoder or the settings are out of range."""
        entry = engine.entry
        threshold = score_threshold if score_threshold is not None else entry.score_threshold or DEFAULT_SCORE_THRESHOLD
        if not (0 < threshold < 1 and 0 < nms_iou < 1 and max_faces >= 1):
            raise ModelError(f"model {entry.name}: thresholds must be between 0 and 1, and at least one face allowed")
        self.engine = engine
        self.landmarker = landmarker
        self.view = view
        self.score_threshold = threshold
        self._nms_iou, self._max_faces = nms_iou, max_faces
        self._decoder = make_decoder(entry, threshold)
        self._blends = entry.decoder == "postern"  # other heads were trained and published without
        self._canvas = np.empty((entry.input.height, entry.input.width, 3), np.uint8)

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height in pixels: the size at which ``frame.lores`` costs nothing to fit."""
        return self.engine.entry.input.width, self.engine.entry.input.height

    def detect(self, frame: Frame, *, exact: bool = True, known: Sequence[Face] = ()) -> list[Face]:
        """Return the faces in pixels of ``frame.main``, best first.

        Unless ``exact``, candidates that the first look is sure of are spared the second, and keep coarse landmarks:
        enough to follow a face and to see how it is turned. ``locate`` places them before it is aligned. So are those
        of the faces in ``known``, which the last look found and nothing is to be decided about.
        """
        image, scale, origin = self._shown(frame)
        found = sane(self._decoder.decode(self.engine.run(image)))
        return self._look(found, image, scale, origin, known=None if exact else known)

    def again(self, frame: Frame) -> list[Face]:
        """Return the faces of a second try on a frame in which ``detect`` found nobody: the picture farther off.

        What it proposes is looked at closely in the picture as it is; costs one more run of the detector.
        """
        image, scale, origin = self._shown(frame)
        farther, place = _farther_off(image)
        found = sane(self._decoder.decode(self.engine.run(farther)))
        nearer = Candidates(
            (found.boxes - np.tile(place, 2)) * FARTHER, (found.landmarks - place) * FARTHER, found.scores
        )
        return self._look(nearer, image, scale, origin, known=None)

    def _shown(self, frame: Frame) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """What the network sees, its pixels per pixel of the main picture, and where it begins there (x, y)."""
        main = frame.main
        if self.view is None:
            image, factor = self._fit(frame.lores)
            return (
                image,
                factor * lores_scale(main.width, main.height, frame.lores.shape[1], frame.lores.shape[0]),
                (0, 0),
            )
        box = self.view.box((main.width, main.height), self.input_size)
        image = main.shrunk(box, self.input_size)
        return image, lores_scale(box[2] - box[0], box[3] - box[1], *self.input_size), box[:2]

    def _look(
        self,
        found: Candidates,
        image: NDArray[np.uint8],
        scale: float,
        origin: tuple[int, int],
        *,
        known: Sequence[Face] | None,
    ) -> list[Face]:
        """The faces among candidates in pixels of ``image``; without ``known`` each is looked at closely."""
        if not found.scores.size:
            return []
        kept = nms(found.boxes, found.scores, self._nms_iou, self._max_faces)
        boxes, landmarks = found.boxes[kept], found.landmarks[kept]
        if self._blends:
            boxes, landmarks = blend(found.boxes, found.landmarks, found.scores, kept)
        scores = found.scores[kept].tolist()
        faces = [
            Face((x0, y0, x1, y1), marks, score)
            for (x0, y0, x1, y1), marks, score in zip(boxes.tolist(), landmarks, scores, strict=True)
        ]
        if self.landmarker is not None:
            picture = RgbPicture(image)
            there = [_in_view(face, scale, origin) for face in known or ()]
            faces = [
                seen
                for face in faces
                if (
                    seen := face if known is not None and _is_sure(face, there) else self.landmarker.look(picture, face)
                )
                is not None
            ]
            faces.sort(key=lambda face: face.score, reverse=True)
        return [placed(face, 1 / scale, origin) for face in faces]

    @property
    def model(self) -> str:
        """Identity of this detector and of its second look, ``sha256:…``."""
        second = None if self.landmarker is None else self.landmarker.engine.entry
        return detector_digest(self.engine.entry, second)

    def locate(self, frame: Frame, face: Face) -> Face:
        """Return ``face`` with its landmarks as the main picture shows them, for alignment.

        The face itself without a landmark model, or where the closer look sees no face.
        """
        return (self.landmarker and self.landmarker.look(frame.main, face)) or face

    def _fit(self, lores: Rgb) -> tuple[NDArray[np.uint8], float]:
        """Return the input picture, and input pixels per pixel of ``lores``."""
        (height, width), (rows, columns) = lores.shape[:2], self._canvas.shape[:2]
        factor = min(columns / width, rows / height)
        if (height, width) == (rows, columns):
            return lores, factor
        if factor != 1:
            height, width = max(round(height * factor), 1), max(round(width * factor), 1)
            lores = np.asarray(Image.fromarray(lores).resize((width, height), Image.Resampling.BILINEAR))
        self._canvas[:height, :width] = lores
        self._canvas[height:] = self._canvas[:, width:] = LORES_BORDER
        return self._canvas, factor


def _farther_off(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture ``FARTHER`` times as far away in the middle of an empty one, and its place (x, y) there."""
    height, width = image.shape[:2]
    size = round(width / FARTHER), round(height / FARTHER)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    whole = np.full_like(image, LORES_BORDER)
    whole[y : y + size[1], x : x + size[0]] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return whole, np.array((x, y), np.float32)


def _is_sure(face: Face, known: Sequence[Box]) -> bool:
    """Whether the first look at a face suffices; ``known`` are boxes of those that the last look found."""
    return face.score >= TRUSTED or (
        face.score >= KNOWN_SCORE and any(overlaps(face.box, box, KNOWN_IOU) for box in known)
    )


def _in_view(face: Face, scale: float, origin: tuple[int, int]) -> Box:
    """The box of a face in the main picture as the network's input shows it."""
    (x0, y0, x1, y1), (x, y) = face.box, origin
    return (x0 - x) * scale, (y0 - y) * scale, (x1 - x) * scale, (y1 - y) * scale


def placed(face: Face, scale: float, origin: tuple[int, int]) -> Face:
    """Return ``face`` in a picture that is ``scale`` times as large, whose pixel ``origin`` (x, y) it was seen from."""
    (x0, y0, x1, y1), (x, y) = face.box, origin
    box = (x0 * scale + x, y0 * scale + y, x1 * scale + x, y1 * scale + y)
    return Face(box, face.landmarks * np.float32(scale) + np.array(origin, np.float32), face.score)


def sane(found: Candidates) -> Candidates:
    """Drop what is not a face in shape: sides that are not positive, landmarks in one point, values not finite."""
    if not found.scores.size:
        return found
    boxes, landmarks = found.boxes, found.landmarks
    if (
        np.isfinite(boxes).all()
        and np.isfinite(landmarks).all()
        and (boxes[:, 2:] > boxes[:, :2]).all()
        and (landmarks.max(1) - landmarks.min(1)).max(1).min() >= MIN_SPREAD
    ):
        return found
    good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & np.isfinite(boxes).all(1)
    good &= np.isfinite(landmarks).all((1, 2))
    with np.errstate(invalid="ignore"):  # infinities are out already
        good &= (landmarks.max(1) - landmarks.min(1)).max(1) >= MIN_SPREAD
    return Candidates(boxes[good], landmarks[good], found.scores[good])


def load_detector(
    manifest: Path | Manifest,
    name: str,
    threads: int = 1,
    *,
    score_threshold: float | None = None,
    view: ZoneView | None = None,
) -> Detector:
    """Load a listed detector and the landmark model it names, verified and self-tested; raises ModelError."""
    models = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    engine = load_engine(models, name, threads=threads)
    second = engine.entry.landmarks
    landmarker = None if second is None else Landmarker(load_engine(models, second, threads=threads))
    return Detector(engine, landmarker, score_threshold=score_threshold, view=view)
