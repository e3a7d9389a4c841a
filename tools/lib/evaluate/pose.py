# SPDX-License-Identifier: Apache-2.0
"""How a head is turned, as the unit reads it, against a peer's landmarks on photos and against drawn heads.

Photos have no known angle: the reference is the peer's landmarks under the same formula (``agent.detect.pose``).
Drawn heads have one, but a warped frontal picture looks less turned than it is, to the peer as well.
Each row: ``slope`` and ``offset`` of the unit's angle over the reference, their correlation, the root mean square of
their difference, degrees. ``trembling``: the same, of one picture and the picture some pixels farther on.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agent.camera.base import Frame
from agent.camera.scene.people import PERSON_IDS, load_people
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import PathKey, Person, PoseKey, Room, SceneScript
from agent.detect.face import Face
from agent.detect.pose import Pose, head_pose
from tools.lib.evaluate import detection, pictures, shards
from tools.lib.evaluate.arguments import existing_file, some
from tools.lib.evaluate.peers import FindsFaces, YuNet
from tools.lib.evaluate.recogniser import Finder, add_model_arguments, progress

AXES = ("yaw", "pitch", "roll")
FARTHEST = 45.0  # degrees of the reference: beyond it no gate and no challenge asks for an angle
DRAWN = {"yaw": (-45, -30, -15, 0, 15, 30, 45), "pitch": (-30, -20, -10, 0, 10, 20, 30)}
LOOKS = ("first look", "second look")  # what the gate sees, and what alignment and the challenge see


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=Path, help="photos with the peer's landmarks, in faces-*.npz")
    parser.add_argument("--last", type=some, help="only the last so many of these shards")
    parser.add_argument("--images", type=Path, help="photos, compared with --peer")
    parser.add_argument("--peer", type=existing_file, metavar="YUNET.onnx", help="whose landmarks are the reference")
    parser.add_argument("--limit", type=some, help="an evenly spread sample of so many photos")
    add_model_arguments(parser, embedder=False)


class Pairs:
    """Reference and measured angles by what was measured, and on which axis."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, name: str, reference: Pose, measured: Pose) -> None:
        for axis in AXES:
            self.add_angle(f"{name}, {axis}", getattr(reference, axis), getattr(measured, axis))

    def add_angle(self, name: str, reference: float, measured: float) -> None:
        if abs(reference) <= FARTHEST:
            self._values[name].append((reference, measured))

    def summary(self) -> dict[str, dict[str, float]]:
        return {name: fit(np.array(values)) for name, values in self._values.items() if len(values) > 1}


def fit(pairs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """Return the line through (n, 2) pairs, their correlation and difference."""
    reference, measured = pairs.T
    slope, offset = np.polyfit(reference, measured, 1)
    return {
        "faces": len(pairs),
        "slope": float(slope),
        "offset": float(offset),
        "correlation": float(np.corrcoef(reference, measured)[0, 1]),
        "rms": float(np.sqrt(np.mean((reference - measured) ** 2))),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    finder, pairs = Finder(args), Pairs()
    photos(args, finder, pairs)
    drawn(finder, YuNet(args.peer) if args.peer else None, pairs)
    return {"angles": pairs.summary(), "models": finder.names}


def photos(args: argparse.Namespace, finder: Finder, pairs: Pairs) -> None:
    """Compare with the peer's landmarks, and each photo with itself a little moved."""
    for name, frame, reference in referenced(args, finder):
        looks = poses(finder.detector, frame, reference)
        dx, dy = detection.SHIFT
        moved = pictures.moved(frame, dx, dy, finder.detector.input_size)
        again = poses(finder.detector, moved, reference)
        for look, pose in looks.items():
            pairs.add(f"{name}, {look}", head_pose(reference.landmarks), pose)
            if look in again:
                pairs.add(f"trembling, {look}", pose, again[look])


def referenced(args: argparse.Namespace, finder: Finder) -> Iterator[tuple[str, Frame, Face]]:
    size = finder.detector.input_size
    if args.shards:
        paths = sorted(args.shards.glob("faces-*.npz"))[-args.last if args.last else 0 :]
        for one in itertools.islice(shards.faces(list(progress(paths))), args.limit):
            if np.isfinite(one.landmarks).all():
                x0, y0, x1, y1 = one.box.tolist()
                yield (
                    "shards",
                    pictures.as_frame(Image.fromarray(one.rgb), size),
                    Face((x0, y0, x1, y1), one.landmarks, 1),
                )
    if args.images and args.peer:
        peer = YuNet(args.peer)
        for path in progress(pictures.find(args.images, args.limit)):
            frame = pictures.load(path, size)
            if found := peer.detect(frame):
                yield "images", frame, max(found, key=lambda face: face.width * face.height)


def poses(detector: FindsFaces, frame: Frame, reference: Face) -> dict[str, Pose]:
    """The angles of the face that the reference is of, at both looks; empty when it was not found."""
    faces = detector.detect(frame, exact=False)
    face = max(faces, key=lambda one: detection.overlap(one, reference), default=None)
    if face is None or detection.overlap(face, reference) < detection.SAME_FACE:
        return {}
    near = detector.locate(frame, face)
    return dict(zip(LOOKS, (head_pose(face.landmarks), head_pose(near.landmarks)), strict=True))


def drawn(finder: Finder, peer: YuNet | None, pairs: Pairs) -> None:
    """Compare with the angles of the demo people's drawn heads, one axis at a time."""
    people = load_people()
    for number, who in enumerate(PERSON_IDS):
        for axis, angle in ((axis, angle) for axis, angles in DRAWN.items() for angle in angles):
            main = SceneRenderer(standing(who, number, PoseKey(at=0, **{axis: float(angle)})), people).frame(0)
            frame = pictures.as_frame(Image.fromarray(main), finder.detector.input_size)
            faces = finder.detector.detect(frame, exact=False)
            for face in faces[:1]:
                looks = (face, finder.detector.locate(frame, face))
                for look, one in zip(LOOKS, looks, strict=True):
                    pairs.add_angle(f"drawn, {look}, {axis}", angle, getattr(head_pose(one.landmarks), axis))
            for face in peer.detect(frame)[:1] if peer else ():
                pairs.add_angle(f"drawn, peer, {axis}", angle, getattr(head_pose(face.landmarks), axis))


def standing(who: str, variant: int, pose: PoseKey) -> SceneScript:
    person = Person(who=who, path=(PathKey(at=0, x=320, y=150, face=123),), pose=(pose,), sway=0)
    return SceneScript(size=(640, 360), duration=1, seed=variant, background=Room(variant=variant), people=(person,))
