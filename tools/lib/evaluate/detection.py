# SPDX-License-Identifier: Apache-2.0
"""How well faces and landmarks are found, how often something else is taken for one, and how long it takes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.camera.base import Frame
from agent.detect.face import LEFT_EYE, RIGHT_EYE, Face
from tools.lib.evaluate import metrics, pictures
from tools.lib.evaluate.peers import FindsFaces, YuNet
from tools.lib.evaluate.recogniser import Finder, add_model_arguments, existing_file, progress

SHIFT = (3, 2)  # pixels: less than a cell of any stride, so the network sees the picture in another phase
SAME_FACE = 0.4  # intersection over union from which two boxes are of one face


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="pictures with faces")
    parser.add_argument("--empty", type=Path, help="pictures without a face: everything found there is false")
    parser.add_argument(
        "--peer", type=existing_file, metavar="YUNET.onnx", help="compare faces and landmarks with this peer's"
    )
    parser.add_argument("--limit", type=int, help="an evenly spread sample of so many pictures per folder")
    add_model_arguments(parser, embedder=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    finder = Finder(args)
    peer = YuNet(args.peer) if args.peer else None
    paths = pictures.find(args.images, args.limit)
    counts, comparison, ours, its = [], Comparison(), Comparison(), Comparison()
    for path in progress(paths):
        frame, faces = finder.faces(path)
        counts.append(len(faces))
        if peer is not None:
            with finder.times.measure("peer detect"):
                theirs = peer.detect(frame)
            comparison.add(faces, theirs)
            ours.add(moved_back(finder.detector, frame), faces)
            its.add(moved_back(peer, frame), theirs)
    report: dict[str, Any] = {
        "images": len(paths),
        "share_with_a_face": float(np.mean(np.array(counts) > 0)),
        "faces_per_image": float(np.mean(counts)),
    }
    if args.empty:
        false = [len(finder.faces(path)[1]) for path in progress(pictures.find(args.empty, args.limit))]
        report["empty_images"] = len(false)
        report["false_faces_per_image"] = float(np.mean(false))
        report["share_with_a_false_face"] = float(np.mean(np.array(false) > 0))
    if peer is not None:
        report["peer"] = comparison.summary() | {
            "own_landmark_error_after_a_shift": ours.summary().get("landmark_error"),
            "peer_landmark_error_after_a_shift": its.summary().get("landmark_error"),
        }
    return report | {"cpu_milliseconds": finder.times.summary(), "models": finder.names}


def moved_back(detector: FindsFaces, frame: Frame) -> list[Face]:
    """Return what a detector finds in the same picture ``SHIFT`` pixels farther on, where it lies in the picture.

    A detector that is as exact as its figures would give the same landmarks again: the difference is its own noise,
    and no other detector can agree with it any better.
    """
    dx, dy = SHIFT
    found = detector.detect(pictures.moved(frame, dx, dy, detector.input_size))
    moved = np.array(SHIFT, np.float32)
    return [
        Face(
            (f.box[0] - dx, f.box[1] - dy, f.box[2] - dx, f.box[3] - dy),
            f.landmarks - moved,
            f.score,
        )
        for f in found
    ]


class Comparison:
    """Faces found by both, and how far their landmarks lie apart relative to the peer's eye distance."""

    def __init__(self) -> None:
        self._theirs = 0
        self._found = 0
        self._offsets: list[NDArray[np.float64]] = []

    def add(self, mine: Sequence[Face], theirs: Sequence[Face]) -> None:
        self._theirs += len(theirs)
        for face in theirs:
            match = max(mine, key=partial(overlap, face), default=None)
            if match is None or overlap(match, face) < SAME_FACE:
                continue
            self._found += 1
            eyes = np.hypot(*(face.landmarks[RIGHT_EYE] - face.landmarks[LEFT_EYE]))
            self._offsets.append((match.landmarks - face.landmarks).astype(np.float64) / max(float(eyes), 1.0))

    def summary(self) -> dict[str, Any]:
        if not self._offsets:
            return {"faces": self._theirs, "share_found": 0.0}
        offsets = np.array(self._offsets)  # (n, 5, 2)
        error = np.hypot(offsets[..., 0], offsets[..., 1])
        return {
            "faces": self._theirs,
            "share_found": self._found / self._theirs,
            "landmark_error": float(error.mean()),
            "landmark_error_p95": metrics.quantiles(error.mean(1), (0.95,))[0],
            "landmark_error_by_point": error.mean(0).tolist(),
            "landmark_bias_xy": offsets.mean((0, 1)).tolist(),
        }


def overlap(a: Face, b: Face) -> float:
    """Return the intersection over union of two boxes."""
    wide = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    high = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    return shared / (a.width * a.height + b.width * b.height - shared)
