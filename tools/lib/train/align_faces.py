# SPDX-License-Identifier: Apache-2.0
"""Align every picture of a folder to the ArcFace template, with a margin for later warps.

tools/train align-faces OUT.npy --photos FOLDER
tools/train align-faces OUT.npy --shards SHARDS --leave-last 3

YuNet finds the landmarks of photos; shards bring theirs. ``OUT.npy`` is uint8 RGB (n, SIDE, SIDE, 3), memory-mapped by
``pool``, and ``OUT.meta.npz`` holds boxes and landmarks; what lies outside a picture is its mirror image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tools.lib.evaluate.shards import faces
from tools.lib.train.teacher import TEMPLATE, DetectionTeacher

MARGIN = 24  # template pixels on each side: room for rotation, shift and pose warps
SCALE = 1.25  # stored pixels per template pixel: the sources are a little sharper than 112x112
SIDE = int((112 + 2 * MARGIN) * SCALE)


def align(bgr: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """uint8 RGB (SIDE, SIDE, 3); landmarks float (5, 2) in pixels of ``bgr``."""
    matrix, _ = cv2.estimateAffinePartial2D(landmarks.astype(np.float32), (TEMPLATE + MARGIN) * SCALE, method=cv2.LMEDS)
    crop = cv2.warpAffine(bgr, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.ascontiguousarray(crop[..., ::-1])


def photos(folder: Path, teacher: DetectionTeacher) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield crop and YuNet's row of the face nearest to the middle of every photo in which there is one."""
    for path in sorted(folder.glob("*.jpg")):
        bgr = cv2.imread(str(path))
        found = teacher(bgr)
        if len(found):
            middle = np.array([bgr.shape[1], bgr.shape[0]]) / 2
            best = min(found, key=lambda f: float(np.hypot(*(f[:2] + f[2:4] / 2 - middle))))
            yield align(bgr, best[4:14].reshape(5, 2)), best[:14]


def shards(paths: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield crop and row of every face of the shards whose landmarks are known."""
    for face in faces(paths):
        if np.isfinite(face.landmarks).all():
            row = np.concatenate([face.box[:2], face.box[2:] - face.box[:2], face.landmarks.ravel()])
            yield align(np.ascontiguousarray(face.rgb[..., ::-1]), face.landmarks), row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--photos", type=Path)
    source.add_argument("--shards", type=Path)
    parser.add_argument("--leave-last", type=int, default=0, help="shards kept for measuring")
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.photos:
        found = list(photos(args.photos, DetectionTeacher(args.teachers)))
    else:
        paths = sorted(args.shards.glob("*.npz"))
        found = list(shards(paths[: len(paths) - args.leave_last]))
    np.save(args.out, np.stack([crop for crop, _ in found]))
    np.savez(args.out.with_suffix(".meta.npz"), faces=np.stack([row for _, row in found]))
    print(f"{len(found)} aligned -> {args.out}")


if __name__ == "__main__":
    main()
