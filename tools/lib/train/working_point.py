# SPDX-License-Identifier: Apache-2.0
"""At which score two looks together call something a face, and how much the first of them counts.

tools/train working-point --faces FOLDER [FOLDER ...] --empty FOLDER [FOLDER ...] --detector-name NAME

Takes every tenth prepared portrait, which no training uses, filling the frame and half as large, and every tenth
photo without a face, as it is and mirrored. For each weight of the first look: the score at which the stated number of
false faces a picture is left, the share of portraits that are then not found, and the highest first scores of what is
no face. Among the false faces of few pictures the next one is far: take a score with a margin.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from agent.camera.base import Frame, RgbPicture
from agent.detect.decoders.common import logit
from agent.detect.detector import Detector
from agent.detect.landmarks import MARGIN, cut
from agent.inference.engine import Engine, load_engine
from tools.lib.evaluate.pictures import as_frame
from tools.lib.train.cutouts import SIDE
from tools.lib.train.naturals import HELD_PORTRAIT, load_backgrounds
from tools.lib.train.patches import overlap

LIMIT = 1e-6  # scores are kept this far from 0 and 1
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
SAME = 0.3  # IoU from which a candidate is the portrait's face
NONE = -99.0


class Looks:
    """The two looks, apart."""

    def __init__(self, models: Path, detector: str, landmarks: str, faintest: float) -> None:
        self.detector = Detector(load_engine(models, detector), score_threshold=faintest)
        self.engine: Engine = load_engine(models, landmarks)

    def __call__(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """First and second logit of each candidate (n, 2), and boxes x, y, w, h (n, 4) in the small picture."""
        picture, rows, boxes = RgbPicture(frame.lores), [], []
        small = Frame(0, 0, frame.lores, picture)
        for face in self.detector.detect(small):
            x0, y0, x1, y1 = face.box
            centre, side = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), float(np.sqrt(face.width * face.height)) * MARGIN
            second = self.engine.dequantise("score", self.engine.run(cut(picture, centre, side))["score"]).item()
            rows.append((logit(min(max(face.score, LIMIT), 1 - LIMIT)), second))
            boxes.append((x0, y0, face.width, face.height))
        return np.array(rows).reshape(-1, 2), np.array(boxes).reshape(-1, 4)


def portraits(folder: Path, size: tuple[int, int]) -> Iterator[tuple[Frame, np.ndarray]]:
    """Frames that show a portrait, with its box in pixels of the small picture."""
    images = np.load(folder / "image.npy", mmap_mode="r")
    with np.load(folder / "meta.npz") as meta:
        faces = meta["faces"]
    for index, k in enumerate(range(0, len(images), HELD_PORTRAIT)):
        share = 1.0 if index % 2 == 0 else 0.5
        side = int(size[1] * share)
        canvas = np.full((size[1], size[0], 3), 128, np.uint8)
        canvas[:side, :side] = cv2.resize(np.asarray(images[k]), (side, side), interpolation=cv2.INTER_AREA)
        yield Frame(0, 0, canvas, RgbPicture(canvas)), faces[k, :4] * side / SIDE


def report(found: list[np.ndarray], empty: list[np.ndarray], target: float) -> Iterator[str]:
    for weight in WEIGHTS:
        false = np.concatenate([(weight * r[:, 0] + r[:, 1]) / (weight + 1) for r in empty] or [np.zeros(0)])
        best = np.array([max((weight * r[:, 0] + r[:, 1]) / (weight + 1), default=NONE) for r in found])
        allowed = int(target * len(empty))
        edge = np.sort(false)[::-1][allowed] if len(false) > allowed else NONE
        shares = [(best <= v).mean() for v in (edge, edge + 0.3)]
        yield f"weight {weight}: score {1 / (1 + np.exp(-edge)):.3f}, missed {shares[0]:.4f}, 0.3 above {shares[1]:.4f}"
    yield f"no candidate at all: {np.mean([len(r) == 0 for r in found]):.4f}"
    yield f"second looks in an empty picture: {np.mean([len(r) for r in empty]):.2f}"
    firsts = np.sort(np.concatenate([r[:, 0] for r in empty]))[::-1][:8]
    yield "highest first scores of what is no face: " + " ".join(f"{1 / (1 + np.exp(-v)):.3f}" for v in firsts)


def frames(pictures: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[Frame]:
    for picture in pictures:
        for image in (picture, picture[:, ::-1]):
            yield as_frame(Image.fromarray(np.ascontiguousarray(image)), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, nargs="+", required=True, help="folders of tools.lib.train.naturals")
    parser.add_argument("--empty", type=Path, nargs="+", required=True)
    parser.add_argument("--models", type=Path, default=Path("models/manifest.yaml"))
    parser.add_argument("--detector-name", default="detector-320x240")
    parser.add_argument("--landmarks-name", default="landmarks")
    parser.add_argument("--faintest", type=float, default=0.1, help="first score from which there is a second look")
    parser.add_argument("--target", type=float, default=0.01, help="false faces a picture")
    args = parser.parse_args()
    looks = Looks(args.models, args.detector_name, args.landmarks_name, args.faintest)
    size = looks.detector.input_size
    places = load_backgrounds(args.empty, held_out=True)[::2]  # the others are left for measuring what comes of it
    empty = [looks(frame)[0] for frame in frames(places, size)]
    for folder in args.faces:
        found = []
        for frame, box in portraits(folder, size):
            rows, boxes = looks(frame)
            found.append(rows[[overlap(other, box) >= SAME for other in boxes]] if len(rows) else rows)
        print(f"{folder.name}: {len(found)} portraits, {len(empty)} empty frames, {args.detector_name}")
        print(*report(found, empty, args.target), sep="\n")


if __name__ == "__main__":
    main()
