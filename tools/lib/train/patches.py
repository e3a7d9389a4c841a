# SPDX-License-Identifier: Apache-2.0
"""Make shards of patches for the landmark network: faces as a detector frames them, and what it takes for faces.

tools/train patches PORTRAITS portraits.meta.npz BACKGROUNDS POOL --shards 0 16

A face is rendered large and clean, under pose, light and cover; YuNet labels that picture, so a label is what the
teacher says of the posed face and not what the warp carried over; then resolution, blur, noise and the error of the
box are added. Faces that the teacher no longer sees count as faces without landmarks. Patches without a face are what
the shipped detector finds far below its threshold in scenes with nobody, parts of faces, and anything.
Shards: patch-k.npy uint8 RGB (n, 64, 64, 3) and label-k.npy float32 (n, 12): kind (1 face, 0 none), 1 where landmarks
count, five landmarks x, y in shares of the patch from its middle. Every tenth portrait and every fifth background
are kept for measuring; ``--held-out`` uses those only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from agent.camera.base import Frame, RgbPicture
from agent.detect.detector import Detector
from agent.detect.landmarks import MARGIN, PATCH, cut
from agent.inference.engine import load_engine
from tools.lib.train.cutouts import load_portraits
from tools.lib.train.scenes import HELD_BACKGROUND, HELD_PORTRAIT, Composer, Painter, camera
from tools.lib.train.teacher import DetectionTeacher

CANVAS = 192  # pixels: room around a face of 110 pixels
SCENE = (320, 240)
LEAST = 13.0  # pixels: the smallest face that the detector answers for
FAINT = 0.15  # detector score from which a wrong answer is worth learning from
SAME, OTHER = 0.5, 0.3  # IoU from which a box is the face, and below which it is not
PER_FACE = 2  # patches of one rendered face
SCENE_SHARE = 0.12  # scenes with nobody for each rendered face
LABELS = 12


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of boxes x, y, w, h."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:4], b[:2] + b[2:4])
    shared = float(np.clip(high - low, 0, None).prod())
    return shared / (float(a[2] * a[3] + b[2] * b[3]) - shared + 1e-6)


def label(landmarks: np.ndarray, centre: np.ndarray, side: float, *, counts: bool) -> np.ndarray:
    return np.concatenate([[1, counts], ((landmarks - centre) / side).ravel()]).astype(np.float32)


class Patches:
    """Faces and other things as patches, all chance from one generator."""

    def __init__(self, composer: Composer, scenes: Composer, teacher: DetectionTeacher, detector: Detector) -> None:
        self.composer, self.scenes, self.teacher, self.detector = composer, scenes, teacher, detector

    def faces(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Patches of one rendered face; nothing where it came out hidden or cut."""
        composer = self.composer
        painter = Painter(composer.background(composer.size, rng))
        across, down = CANVAS / 2 + rng.normal(0, 8, 2)
        at = (float(across), float(down))
        kind = str(rng.choice(["head", "ellipse", "rectangle", "whole"], p=[0.6, 0.08, 0.08, 0.24]))
        composer.put(painter, at, float(rng.uniform(72, 112)), kind, rng)
        if not painter.rows or painter.visible[0] < 0.7:
            return []
        box, marks, known = painter.rows[0][:4], painter.rows[0][4:14].reshape(5, 2), False
        clean = np.ascontiguousarray(painter.image.clip(0, 255).astype(np.uint8))
        for row in self.teacher(clean[..., ::-1]):
            if overlap(row[:4], box) >= SAME:
                box, marks, known = row[:4], row[4:14].reshape(5, 2), True
                break
        out = []
        for _ in range(PER_FACE):
            size = float(np.sqrt(box[2] * box[3]))
            scale = float(np.exp(rng.uniform(np.log(LEAST), np.log(130)))) / size
            small = clean
            if scale < 1:
                edge = max(8, round(CANVAS * scale))
                small, scale = cv2.resize(clean, (edge, edge), interpolation=cv2.INTER_AREA), edge / CANVAS
            else:
                scale = 1.0
            seen = camera(small.astype(np.float32), rng)
            middle = (box[:2] + box[2:4] / 2) * scale
            centre = middle + rng.normal(0, 0.07, 2) * size * scale
            side = size * scale * MARGIN * float(np.exp(rng.normal(0, 0.11)))
            out.append((cut(RgbPicture(seen), centre, side), label(marks * scale, centre, side, counts=known)))
        if rng.random() < 0.4:  # a part of the face, or much more than it
            size, away = float(np.sqrt(box[2] * box[3])), rng.uniform(0, 2 * np.pi)
            far = rng.random() < 0.6
            centre = (
                box[:2] + box[2:4] / 2 + far * size * rng.uniform(0.6, 1.0) * np.array([np.cos(away), np.sin(away)])
            )
            side = size * MARGIN * (rng.uniform(0.5, 1.3) if far else float(rng.choice([rng.uniform(0.25, 0.5), 2.2])))
            out.append(
                (cut(RgbPicture(camera(clean.astype(np.float32), rng)), centre, side), np.zeros(LABELS, np.float32))
            )
        return out

    def others(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Patches of one scene with nobody: what the detector takes for a face, and two that it does not."""
        painter = Painter(self.scenes.background(SCENE, rng))
        for _ in range(int(rng.integers(0, 4))):
            self.scenes.decoy(painter, rng)
        image = camera(painter.image, rng)
        picture, none, out = RgbPicture(image), np.zeros(LABELS, np.float32), []
        for face in self.detector.detect(Frame(0, 0, image, picture)):
            centre = (np.array(face.box[:2]) + face.box[2:]) / 2
            side = float(np.sqrt(face.width * face.height)) * MARGIN
            for _ in range(2):
                shaken = side * float(np.exp(rng.normal(0, 0.08)))
                out.append((cut(picture, centre + rng.normal(0, 0.04, 2) * side, shaken), none))
        for _ in range(2):
            side = float(np.exp(rng.uniform(np.log(20), np.log(240))))
            out.append((cut(picture, rng.uniform(0, 1, 2) * SCENE, side), none))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("meta", type=Path)
    parser.add_argument("backgrounds", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, nargs=2, default=(0, 16), help="first and last + 1")
    parser.add_argument("--per-shard", type=int, default=6000)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path("models/manifest.yaml"))
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    portraits = load_portraits(args.portraits, args.meta, args.meta.with_suffix(".matte.npy"))
    portraits = [p for i, p in enumerate(portraits) if (i % HELD_PORTRAIT == 0) == args.held_out]
    names = [
        p for i, p in enumerate(sorted(args.backgrounds.glob("*.jpg"))) if (i % HELD_BACKGROUND == 0) == args.held_out
    ]
    backgrounds = [cv2.imread(str(n))[..., ::-1] for n in names]
    detector = Detector(load_engine(args.models, "detector-320x240"), score_threshold=FAINT)
    patches = Patches(
        Composer(portraits, backgrounds, (CANVAS, CANVAS)),
        Composer(portraits, backgrounds, SCENE),
        DetectionTeacher(args.teachers),
        detector,
    )
    for shard in range(*args.shards):
        began, rows = time.monotonic(), list[tuple[np.ndarray, np.ndarray]]()
        rng = np.random.default_rng([args.seed, shard, int(args.held_out), PATCH])
        while len(rows) < args.per_shard:
            rows += patches.faces(rng)
            if rng.random() < SCENE_SHARE:
                rows += patches.others(rng)
        rows = rows[: args.per_shard]
        np.save(args.out / f"label-{shard:04d}.npy", np.stack([r[1] for r in rows]))
        partial = args.out / f"partial-{shard:04d}.npy"
        np.save(partial, np.stack([r[0] for r in rows]))
        partial.replace(args.out / f"patch-{shard:04d}.npy")
        labels = np.stack([r[1] for r in rows])
        rate = len(rows) / (time.monotonic() - began)
        shares = f"{labels[:, 0].mean():.2f} faces, {labels[:, 1].mean():.2f} with landmarks"
        print(f"shard {shard}: {rate:.0f} patches/s, {shares}", flush=True)


if __name__ == "__main__":
    main()
