# SPDX-License-Identifier: Apache-2.0
"""How well faces and landmarks are found, how often something else is taken for one, and how long it takes.

Faces that are not found are counted by group and by turn of the head where the pictures come from labelled shards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Frame
from agent.detect.face import LEFT_EYE, RIGHT_EYE, Face
from tools.lib.evaluate import found, metrics, pictures, shards
from tools.lib.evaluate.arguments import existing_file, some, to_write
from tools.lib.evaluate.peers import FindsFaces, YuNet
from tools.lib.evaluate.rates import rate
from tools.lib.evaluate.recogniser import Finder, add_model_arguments, progress

SHIFT = (3, 2)  # pixels: less than a cell of any stride, so the network sees the picture in another phase
SAME_FACE = 0.4  # intersection over union from which two boxes are of one face
HELD_OUT = 5  # every so manieth picture without a face is none that training uses


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="pictures with faces")
    parser.add_argument("--shards", type=Path, help="labelled pictures with faces, in faces-*.npz")
    parser.add_argument("--last", type=some, help="only the last so many of these shards")
    parser.add_argument(
        "--empty",
        type=Path,
        nargs="+",
        default=[],
        help="pictures without a face, or shards of them: everything found there is false",
    )
    parser.add_argument(
        "--held-out", action="store_true", help="of --empty only every fifth, which training leaves out"
    )
    parser.add_argument(
        "--again", action="store_true", help="with the second try where nobody is found, as a unit does"
    )
    parser.add_argument("--out", type=to_write, metavar="FILE.npz", help="write names, found, boxes, scores")
    parser.add_argument(
        "--peer", type=existing_file, metavar="YUNET.onnx", help="compare faces and landmarks with this peer's"
    )
    parser.add_argument("--limit", type=some, help="an evenly spread sample of so many pictures per folder")
    add_model_arguments(parser, embedder=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    finder = Finder(args)
    finder.again = args.again
    report: dict[str, Any] = {}
    rows: list[found.Row] = []
    if args.images:
        rows += with_faces(args, finder, report)
    if args.shards:
        paths = sorted(args.shards.glob("faces-*.npz"))[-args.last if args.last else 0 :]
        labelled = [
            found.row(face.name, finder.look(Image.fromarray(face.rgb))[1], turn=found.turn_of(face), group=face.group)
            for face in shards.faces(list(progress(paths)))
        ]
        report["shards"] = found.by_subject(labelled)
        rows += labelled
    false: list[found.Row] = []
    for folder in args.empty:
        false += [
            found.row(name, finder.look(picture)[1])
            for index, (name, picture) in enumerate(empty_pictures(folder, args.limit))
            if index % HELD_OUT == 0 or not args.held_out
        ]
    if false:
        report |= found.false_faces(false)
    if args.out:
        found.write(args.out, rows + false)
    return report | {"cpu_milliseconds": finder.times.summary(), "models": finder.names}


def empty_pictures(folder: Path, limit: int | None) -> Iterator[tuple[str, Image.Image]]:
    if any(folder.glob("negatives-*.npz")):
        yield from ((name, Image.fromarray(rgb)) for name, rgb in shards.empty(folder))
    else:
        yield from ((path.name, pictures.upright(path)) for path in progress(pictures.find(folder, limit)))


def with_faces(args: argparse.Namespace, finder: Finder, report: dict[str, Any]) -> list[found.Row]:
    """Search a folder of pictures and compare with the peer; fills ``report``."""
    peer = YuNet(args.peer) if args.peer else None
    comparison, ours, its = Comparison(), Comparison(), Comparison()
    rows = []
    for path in progress(pictures.find(args.images, args.limit)):
        frame, faces = finder.faces(path)
        rows.append(found.row(path.name, faces))
        if peer is not None:
            with finder.times.measure("peer detect"):
                theirs = peer.detect(frame)
            comparison.add(faces, theirs)
            ours.add(moved_back(finder.detector, frame), faces)
            its.add(moved_back(peer, frame), theirs)
    counts = np.array([row.found for row in rows])
    report |= {
        "images": len(rows),
        "nobody_found": int((counts == 0).sum()),
        **rate("share_with_a_face", int((counts > 0).sum()), len(rows)),
        "faces_per_image": float(counts.mean()),
    }
    if peer is not None:
        report["peer"] = comparison.summary() | {
            "own_landmark_error_after_a_shift": ours.summary().get("landmark_error"),
            "peer_landmark_error_after_a_shift": its.summary().get("landmark_error"),
        }
    return rows


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
