# SPDX-License-Identifier: Apache-2.0
"""Make shards of patches for the landmark network: faces as a detector frames them, and what it takes for faces.

tools/train patches POOL --faces FOLDER:WEIGHT [FOLDER:WEIGHT ...] --backgrounds FOLDER [FOLDER ...]

Most faces are photos as they are: scaled, turned and degraded, with the teacher's landmarks. For others a face is
rendered large and clean, under pose, light and cover; YuNet labels that picture, so a label is what the
teacher says of the posed face and not what the warp carried over; then resolution, blur, noise and the error of the
box are added. Faces that the teacher no longer sees count as faces without landmarks. Patches without a face are what
the shipped detectors find far below their threshold in places with nobody, as photos show them and composed; parts of
faces, and anything.
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
from tools.lib.train.cutouts import SIDE, alpha_of, dress
from tools.lib.train.naturals import load_backgrounds, load_portraits
from tools.lib.train.scenes import BORDERS, Composer, Painter, camera
from tools.lib.train.teacher import DetectionTeacher

CANVAS = 192  # pixels: room around a face of 110 pixels
NEAR, FAR = (320, 240), (640, 480)  # input sizes of the two detectors
LEAST = 13.0  # pixels: the smallest face that the detector answers for
FAINT = 0.06  # detector score from which a wrong answer is worth learning from
SAME, OTHER = 0.5, 0.3  # IoU from which a box is the face, and below which it is not
PER_FACE = 2  # patches of one rendered face
SCENE_SHARE = 0.07  # scenes with nobody for each face
PHOTO_SHARE = 0.85  # faces that are photos as they are
FLATTEST = 5.5  # grey levels of deviation in the middle of a patch: less shows nothing
FAR_SHARE = 0.3  # of these that are of the larger size
MOST = 12  # answers of a detector that are learnt from in one scene
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

    def __init__(self, composer: Composer, scenes: list[tuple[Composer, Detector]], teacher: DetectionTeacher) -> None:
        self.composer, self.scenes, self.teacher = composer, scenes, teacher

    def photo(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """One photo of a face, scaled and turned, before a place without one, and perhaps a part of it."""
        portrait = self.composer.portraits.pick(rng)
        image = dress(portrait, rng)[0] if rng.random() < 0.4 else portrait.image
        usual = float(np.sqrt(portrait.box[2] * portrait.box[3]))
        size = min(float(np.exp(rng.uniform(np.log(LEAST), np.log(130)))), usual)
        side = max(8, round(SIDE * size / usual))
        scale, extent = side / SIDE, int(size * 2.6) + 4
        small = cv2.resize(np.asarray(image, np.uint8), (side, side), interpolation=cv2.INTER_AREA)
        angle = rng.normal(0, 9) if rng.random() < 0.7 else rng.normal(0, 20)
        middle = (portrait.box[:2] + portrait.box[2:] / 2) * scale
        turn = cv2.getRotationMatrix2D((float(middle[0]), float(middle[1])), float(np.clip(angle, -40, 40)), 1.0)
        turn[:, 2] += extent / 2 - middle
        draw, where = rng.random(), (extent, extent)
        if draw < 0.25:
            canvas = cv2.warpAffine(small, turn, where, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
        else:
            tone = np.full((extent, extent, 3), rng.choice(BORDERS), np.float32)
            canvas = tone if draw < 0.5 else self.composer.crop(where, rng)
            alpha = alpha_of(portrait, "whole" if portrait.tight or rng.random() < 0.5 else "head", rng)
            alpha = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA)
            alpha = cv2.warpAffine(alpha, turn, where)[..., None]
            canvas = canvas * (1 - alpha) + cv2.warpAffine(small, turn, where).astype(np.float32) * alpha
        seen, marks = camera(canvas, rng), portrait.landmarks * scale @ turn[:, :2].T + turn[:, 2]
        centre = extent / 2 + rng.normal(0, 0.08, 2) * size
        side_of_patch = size * MARGIN * float(np.exp(rng.normal(0, 0.11)))
        patch = cut(RgbPicture(seen), centre, side_of_patch)
        inner = cv2.cvtColor(patch[18:46, 18:46], cv2.COLOR_RGB2GRAY)
        if cv2.GaussianBlur(inner, (0, 0), 1.5).std() < FLATTEST:
            return []
        out = [(patch, label(marks, centre, side_of_patch, counts=portrait.known))]
        if rng.random() < 0.2:
            out.append((self.part(seen, np.full(2, extent / 2), size, rng), np.zeros(LABELS, np.float32)))
        return out

    def part(self, seen: np.ndarray, middle: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
        """A part of the face, what lies beside it, or much more than it: none of them is where a face is."""
        far, away = rng.random() < 0.6, rng.uniform(0, 2 * np.pi)
        centre = middle + far * size * rng.uniform(0.6, 1.0) * np.array([np.cos(away), np.sin(away)])
        side = size * MARGIN * (rng.uniform(0.5, 1.3) if far else float(rng.choice([rng.uniform(0.25, 0.5), 2.2])))
        return cut(RgbPicture(seen), centre, side)

    def faces(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Patches of one rendered face; nothing where it came out hidden or cut."""
        composer = self.composer
        plain = rng.random() < 0.15
        painter = Painter(composer.frame(rng) if plain else composer.background(composer.size, rng))
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
            centre = middle + rng.normal(0, 0.08, 2) * size * scale
            side = size * scale * MARGIN * float(np.exp(rng.normal(0, 0.11)))
            out.append((cut(RgbPicture(seen), centre, side), label(marks * scale, centre, side, counts=known)))
        if rng.random() < 0.4:
            seen = camera(clean.astype(np.float32), rng)
            size = float(np.sqrt(box[2] * box[3]))
            out.append((self.part(seen, box[:2] + box[2:4] / 2, size, rng), np.zeros(LABELS, np.float32)))
        return out

    def others(self, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Patches of one scene with nobody: what the detector takes for a face, and two that it does not."""
        scenes, detector = self.scenes[int(rng.random() < FAR_SHARE)]
        painter = Painter(scenes.whole(rng) if rng.random() < 0.6 else scenes.background(scenes.size, rng))
        for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.4 else 0):
            scenes.decoy(painter, rng)
        image = camera(painter.image, rng) if rng.random() < 0.6 else painter.image.clip(0, 255).astype(np.uint8)
        picture, none, out = RgbPicture(image), np.zeros(LABELS, np.float32), []
        for face in detector.detect(Frame(0, 0, image, picture))[:MOST]:
            centre = (np.array(face.box[:2]) + face.box[2:]) / 2
            side = float(np.sqrt(face.width * face.height)) * MARGIN
            for _ in range(2):
                shaken = side * float(np.exp(rng.normal(0, 0.08)))
                out.append((cut(picture, centre + rng.normal(0, 0.04, 2) * side, shaken), none))
        for _ in range(2):
            side = float(np.exp(rng.uniform(np.log(20), np.log(scenes.size[1]))))
            out.append((cut(picture, rng.uniform(0, 1, 2) * scenes.size, side), none))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faces", required=True, nargs="+", metavar="FOLDER:WEIGHT", help="prepared portraits")
    parser.add_argument("--backgrounds", required=True, type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--shards", type=int, nargs=2, default=(0, 16), help="first and last + 1")
    parser.add_argument("--per-shard", type=int, default=6000)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=Path, default=Path("models/manifest.yaml"))
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    portraits = load_portraits(args.faces, held_out=args.held_out)
    backgrounds = load_backgrounds(args.backgrounds, held_out=args.held_out)
    detectors = [Detector(load_engine(args.models, f"detector-{w}x{h}"), score_threshold=FAINT) for w, h in (NEAR, FAR)]
    patches = Patches(
        Composer(portraits, backgrounds, (CANVAS, CANVAS)),
        [(Composer(portraits, backgrounds, size), d) for size, d in zip((NEAR, FAR), detectors, strict=True)],
        DetectionTeacher(args.teachers),
    )
    for shard in range(*args.shards):
        began, rows = time.monotonic(), list[tuple[np.ndarray, np.ndarray]]()
        rng = np.random.default_rng([args.seed, shard, int(args.held_out), PATCH])
        while len(rows) < args.per_shard:
            rows += patches.photo(rng) if rng.random() < PHOTO_SHARE else patches.faces(rng)
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
