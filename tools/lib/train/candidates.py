# SPDX-License-Identifier: Apache-2.0
"""Patches as the shipped detectors frame them: what they answer in scenes of the detector's pool, right and wrong.

tools/train candidates POOL SCENES [SCENES ...] --first 100

Added to a pool of ``tools.lib.train.patches``, they teach the second look the first one's own errors. The faces count
without landmarks: those of a scene were carried through a warp, which the pool's other faces know better.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.camera.base import Frame, RgbPicture
from agent.detect.detector import Detector
from agent.detect.landmarks import MARGIN, cut
from agent.inference.engine import load_engine
from tools.lib.train.patches import FAINT, LABELS, OTHER, SAME, overlap

WRONG = 5  # wrong answers of one scene, the surest ones


def answers(detector: Detector, image: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a patch of each answer in a scene, and whether it is one of its faces; not what is neither."""
    picture, known, wrong = RgbPicture(image), rows[rows[:, -1] != 0], 0
    for face in detector.detect(Frame(0, 0, image, picture)):
        x0, y0, x1, y1 = face.box
        shared = np.array([overlap(np.array([x0, y0, x1 - x0, y1 - y0]), row) for row in known])
        best = int(shared.argmax()) if len(shared) else -1
        right = best >= 0 and shared[best] >= SAME and known[best, -1] > 0
        if not right and best >= 0 and shared[best] > (0 if known[best, -1] < 0 else OTHER):
            continue
        wrong += not right
        if not right and wrong > WRONG:
            continue
        centre, side = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), float(np.sqrt(face.width * face.height)) * MARGIN
        label = np.zeros(LABELS, np.float32)
        label[0] = right
        yield cut(picture, centre, side), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--first", type=int, default=100, help="number of the first shard written")
    parser.add_argument("--models", type=Path, default=Path("models/manifest.yaml"))
    args = parser.parse_args()
    number = args.first
    for folder in args.scenes:
        detector = None
        for path in sorted(folder.glob("image-*.npy"))[1:]:
            images, rows = np.load(path, mmap_mode="r"), np.load(path.with_name(path.name.replace("image", "faces")))
            if detector is None:
                name = f"detector-{images.shape[2]}x{images.shape[1]}"
                detector = Detector(load_engine(args.models, name), score_threshold=FAINT)
            found = [pair for k in range(len(images)) for pair in answers(detector, np.asarray(images[k]), rows[k])]
            labels = np.stack([label for _, label in found])
            np.save(args.pool / f"label-{number:04d}.npy", labels)
            np.save(args.pool / f"patch-{number:04d}.npy", np.stack([patch for patch, _ in found]))
            print(f"shard {number}: {len(found)} patches, {labels[:, 0].mean():.2f} faces", flush=True)
            number += 1


if __name__ == "__main__":
    main()
