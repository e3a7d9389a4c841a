# SPDX-License-Identifier: Apache-2.0
"""Align every picture of a folder to the ArcFace template, with a margin for later warps.

tools/train align-faces FOLDER OUT.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from tools.lib.train.teacher import TEMPLATE, DetectionTeacher

MARGIN = 24  # template pixels on each side: room for rotation, shift and pose warps
SCALE = 1.25  # stored pixels per template pixel: the sources are a little sharper than 112x112
SIDE = int((112 + 2 * MARGIN) * SCALE)


def align(bgr: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """uint8 RGB (SIDE, SIDE, 3); landmarks float (5, 2) in pixels of ``bgr``."""
    matrix, _ = cv2.estimateAffinePartial2D(landmarks.astype(np.float32), (TEMPLATE + MARGIN) * SCALE, method=cv2.LMEDS)
    crop = cv2.warpAffine(bgr, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.ascontiguousarray(crop[..., ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    detect = DetectionTeacher(args.teachers)
    crops, names, marks, missed = [], [], [], 0
    for path in sorted(args.folder.glob("*.jpg")):
        bgr = cv2.imread(str(path))
        faces = detect(bgr)
        if len(faces) == 0:
            missed += 1
            continue
        middle = np.array([bgr.shape[1], bgr.shape[0]]) / 2
        best = min(faces, key=lambda f: float(np.hypot(*(f[:2] + f[2:4] / 2 - middle))))
        crops.append(align(bgr, best[4:14].reshape(5, 2)))
        marks.append(best[:14])
        names.append(path.name)
    np.save(args.out, np.stack(crops))
    np.savez(args.out.with_suffix(".meta.npz"), names=np.array(names), faces=np.stack(marks))
    print(f"{len(crops)} aligned, {missed} without a face -> {args.out}")


if __name__ == "__main__":
    main()
