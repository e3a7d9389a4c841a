# SPDX-License-Identifier: Apache-2.0
"""How often a face is left to be recognised in the pictures that the web console shows.

Faces of photos and of drawn people are put into scenes: of 6 % to 130 % of the picture's height, upright and turned,
in dim and glaring light. Counted are faces with more than four pixels between the eyes in what leaves,
and, with a peer, what that finds in it, enlarged as a browser enlarges it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.background import background as drawn_background
from agent.camera.scene.people import PERSON_IDS, load_people
from agent.camera.scene.script import Room
from agent.detect.cover import Covering, coarse
from agent.detect.detector import load_detector
from agent.detect.face import LEFT_EYE, RIGHT_EYE
from tools.lib.evaluate import shards
from tools.lib.evaluate.arguments import existing_file, some
from tools.lib.evaluate.peers import YuNet
from tools.lib.evaluate.recogniser import add_model_arguments

WIDTH, HEIGHT = 640, 480
SMALLEST, LARGEST = 0.06, 1.3  # width of a face, of the picture's height
RECOGNISABLE = 4.0  # pixels between the eyes in what leaves
STEP = 0.25  # pixels between looks along the line between the eyes
ENLARGED = ((5, Image.Resampling.NEAREST), (5, Image.Resampling.BILINEAR), (10, Image.Resampling.BILINEAR))
NEAR = 0.6  # of a face's width: what a peer finds within it of the landmarks' middle is that face

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A face to put somewhere: uint8 (h, w, 4) RGBA, width of the face's box, and its landmarks (5, 2) in pixels."""

    rgba: Rgb
    width: float
    landmarks: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """A scene with one face in it: RGB, the landmarks, and the width of the face in pixels."""

    rgb: Rgb
    landmarks: NDArray[np.float32]
    width: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=some, default=1000, help="scenes (1000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=Path, help="labelled photos of faces, in faces-*.npz")
    parser.add_argument("--images", type=Path, help="photos with one face; they need --peer")
    parser.add_argument("--backgrounds", type=Path, help="natural photos; else drawn rooms")
    parser.add_argument("--peer", type=existing_file, metavar="YUNET.onnx", help="looks for faces in what leaves")
    add_model_arguments(parser, embedder=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    draw = random.Random(args.seed)
    peer = YuNet(args.peer) if args.peer else None
    faces = list(cutouts(args, draw, peer))
    grounds = sorted(args.backgrounds.glob("*.jpg")) if args.backgrounds else []
    covering = Covering(load_detector(args.models, args.detector_name))
    told = Counts()
    for _ in range(args.count):
        scene = compose(draw.choice(faces), background(draw, grounds), draw)
        told.look(scene, covering, peer)
    return told.report()


class Counts:
    """What was left, over all scenes."""

    def __init__(self) -> None:
        self.scenes = self.large = self.left = self.by_peer = self.beside = 0
        self._area: list[float] = []

    def look(self, scene: Composed, covering: Covering, peer: YuNet | None) -> None:
        """Cover one scene and count."""
        picture = RgbPicture(scene.rgb)
        frame = Frame(0, 0, picture.shrunk((0, 0, picture.width, picture.height), covering.input_size), picture)
        shown = covering.cover(frame).pixels
        plain = coarse(frame)
        scale = shown.shape[1] / picture.width
        self.scenes += 1
        self._area.append(float((shown != plain).any(2).mean()))
        if float(np.linalg.norm(scene.landmarks[RIGHT_EYE] - scene.landmarks[LEFT_EYE])) * scale > RECOGNISABLE:
            self.large += 1
            self.left += told_apart(shown, scene.landmarks * scale) > RECOGNISABLE
        if peer is not None:
            on, beside = found(peer, shown, scene, scale)
            self.by_peer += on
            self.beside += beside and not on

    def report(self) -> dict[str, Any]:
        return {
            "scenes": self.scenes,
            "faces of more than 4 px between the eyes": self.large,
            "of these left to be recognised": self.left,
            "scenes in which the peer finds the face": self.by_peer,
            "scenes in which it finds something else": self.beside,
            "area covered": float(np.mean(self._area)),
        }


def told_apart(shown: Rgb, landmarks: NDArray[np.float32]) -> int:
    """How many times the colour changes between the eyes: the pixels that are left there, whatever covered them."""
    height, width = shown.shape[:2]
    one, other = landmarks[LEFT_EYE], landmarks[RIGHT_EYE]
    steps = max(int(np.linalg.norm(other - one) / STEP), 1)
    places = [one + (other - one) * n / steps for n in range(steps + 1)]
    colours = [tuple(shown[int(y), int(x)].tolist()) for x, y in places if 0 <= x < width and 0 <= y < height]
    return sum(before != after for before, after in pairwise(colours))


def found(peer: YuNet, shown: Rgb, scene: Composed, scale: float) -> tuple[bool, bool]:
    """Whether the peer finds the face in what leaves, and whether it finds something elsewhere."""
    on = beside = False
    middle = scene.landmarks.mean(0)
    for times, way in ENLARGED:
        size = (shown.shape[1] * times, shown.shape[0] * times)
        large = np.asarray(Image.fromarray(shown).resize(size, way))
        for face in peer.detect(Frame(0, 0, large, RgbPicture(large))):
            x0, y0, x1, y1 = face.box
            centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) / times / scale
            near = float(np.linalg.norm(centre - middle)) < NEAR * scene.width
            on, beside = on or near, beside or not near
    return on, beside


def cutouts(args: argparse.Namespace, draw: random.Random, peer: YuNet | None) -> Iterator[Cutout]:
    """Yield faces to put into scenes: drawn people always, photos where they are given."""
    yield from drawn_people()
    if args.shards:
        paths = draw.sample(sorted(args.shards.glob("faces-*.npz")), 2)
        for one in shards.faces(paths):
            if np.isfinite(one.landmarks).all():
                yield Cutout(opaque(one.rgb), float(one.box[2] - one.box[0]), one.landmarks)
    if args.images and peer is not None:
        files = sorted(args.images.rglob("*.jpg"))
        for file in draw.sample(files, min(len(files), args.count)):
            rgb = np.asarray(Image.open(file).convert("RGB"))
            best = max(peer.detect(Frame(0, 0, rgb, RgbPicture(rgb))), key=lambda face: face.width, default=None)
            if best is not None:
                yield Cutout(opaque(rgb), best.width, best.landmarks)


# Where YuNet sees eyes, nose and mouth in the 128 pictures of drawn people, in shares of the face's box: the mean; they
# lie on each other to 5 %.
DRAWN = np.array([(0.26, 0.38), (0.73, 0.38), (0.49, 0.58), (0.28, 0.71), (0.7, 0.72)], np.float32)


def drawn_people() -> Iterator[Cutout]:
    """Yield the people that come with the package, all of their pictures."""
    people = load_people()
    x0, y0, x1, y1 = people.box
    for who in PERSON_IDS:
        for number in range(1, len(people.people[who].pictures) + 1):
            rgba = np.asarray(people.picture(who, number))
            yield Cutout(rgba, x1 - x0, DRAWN * (x1 - x0, y1 - y0) + np.array((x0, y0), np.float32))


def opaque(rgb: Rgb) -> Rgb:
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])


def background(draw: random.Random, grounds: Sequence[Path]) -> Rgb:
    if not grounds:
        return drawn_background(Room(variant=draw.randrange(64)), WIDTH, HEIGHT)
    return np.asarray(Image.open(draw.choice(grounds)).convert("RGB").resize((WIDTH, HEIGHT)))


def compose(face: Cutout, ground: Rgb, draw: random.Random) -> Composed:
    """Put a face somewhere, of some size, turned by some angle, in some light."""
    share = math.exp(draw.uniform(math.log(SMALLEST), math.log(LARGEST)))
    scale = share * HEIGHT / face.width
    angle = math.radians(draw.choice([0, 0, 0, 0, draw.uniform(-40, 40), 90, 180, 270, draw.uniform(0, 360)]))
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    within = (0.15, 0.85) if share < 0.7 else (0.35, 0.65)
    place = np.array([draw.uniform(*within) * WIDTH, draw.uniform(*within) * HEIGHT])
    shift = place - turn @ face.landmarks.mean(0)
    back = np.linalg.inv(turn)
    affine = np.hstack([back, -(back @ shift)[:, None]]).ravel().tolist()
    moved = Image.fromarray(face.rgba).transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
    )
    picture = Image.fromarray(ground).convert("RGBA")
    picture.alpha_composite(moved)
    gain = draw.choice([1.0, 1.0, 1.0, draw.uniform(0.25, 1.6)])
    rgb = np.clip(np.asarray(picture.convert("RGB")).astype(np.float32) * gain, 0, 255).astype(np.uint8)
    return Composed(rgb, (face.landmarks @ turn.T + shift).astype(np.float32), share * HEIGHT)
