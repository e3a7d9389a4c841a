# SPDX-License-Identifier: Apache-2.0
"""Shards of simulated frames of people and of attacks, with what the teachers say, for the liveness network.

tools/train presentations POOL --faces SRC/news:0.8 SRC/drawn:0.2 --backgrounds NEGATIVES BACKGROUNDS --shards 0 24
tools/train presentations TEST --faces SRC/dev:1 --backgrounds NEGATIVES BACKGROUNDS --shards 0 3 --held-out

Half are people. ``--held-out`` takes backgrounds that no training sees and every species; give it portraits that no
training had. Else the species ``media.HELD_OUT`` is left out. A share is drawn by the simulated camera of scenes
(``agent.camera.scene``), so that drawn people count as people too; attacks show such pictures as well.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from agent.camera.base import RgbPicture
from agent.camera.scene.people import load_people
from agent.camera.scene.render import SceneRenderer
from agent.door.passive import SIDE, cuts
from tools.lib.evaluate.attempts import scene
from tools.lib.train.media import HELD_OUT, SPECIES
from tools.lib.train.naturals import Portraits, load_backgrounds, load_portraits
from tools.lib.train.takes import Take, attack, camera, person
from tools.lib.train.teacher import LivenessTeacher

NEARER = 0.4  # of the faces are so near that the picture's edge cuts the wide crop
DRAWN = 0.08  # of the people, and of what attacks show, are drawn scenes
BONA_FIDE = "bona-fide"


class Drawn:
    """Frames of demo people, as the simulated camera draws them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._people, self._rng = load_people(), rng

    def take(self) -> Take:
        rng = self._rng
        script = scene(BONA_FIDE, int(rng.integers(1000)), rng)
        turned = rng.normal(0, 12), rng.normal(0, 8)
        image = SceneRenderer(script, self._people).frame(0, (float(turned[0]), float(turned[1])))
        at = script.people[0].path[0]
        left, top, right, bottom = self._people.box
        across, down = at.face * (right - left) / (bottom - top) / 2, at.face / 2
        return Take(image, np.array([at.x - across, at.y - down, at.x + across, at.y + down], np.float32))


class Stage:
    """Whatever is shown to the door's camera."""

    def __init__(self, portraits: Portraits, grounds: list[np.ndarray], rng: np.random.Generator) -> None:
        self._portraits, self._grounds, self._rng = portraits, grounds, rng
        self._drawn = Drawn(rng)

    def take(self, species: str) -> Take:
        """A person or an attack, as light would have it."""
        rng = self._rng
        near, drawn = bool(rng.random() < NEARER), self._drawn.take() if rng.random() < DRAWN else None
        if species != BONA_FIDE:
            return attack(self._portraits, self._grounds, species, rng, near=near, shown=drawn)
        return drawn or person(self._portraits, self._grounds, rng, near=near)

    def view(self, take: Take) -> tuple[np.ndarray, Take]:
        """What the network sees of it, uint8 (160, 80, 3), and the camera's frame with a box as detectors err."""
        rng = self._rng
        while True:
            image = camera(take.image, rng)
            x0, y0, x1, y1 = take.box
            half = np.array([x1 - x0, y1 - y0]) * np.exp(rng.normal(0, 0.07, 2)) / 2
            middle = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, 0.08, 2) * half
            box = np.array([*(middle - half), *(middle + half)], np.float32)
            seen = cuts(RgbPicture(image), box.tolist())
            if seen is not None:
                return seen, Take(image, box)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--faces", nargs="+", required=True, metavar="FOLDER:WEIGHT", help="of tools/train naturals")
    parser.add_argument("--backgrounds", nargs="+", type=Path, required=True)
    parser.add_argument("--shards", nargs=2, type=int, default=(0, 1), metavar=("FIRST", "END"))
    parser.add_argument("--per-shard", type=int, default=2048)
    parser.add_argument(
        "--views", type=int, default=1, help="frames of each scene, of which the teachers see the first"
    )
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.pool.mkdir(parents=True, exist_ok=True)
    portraits = load_portraits(args.faces, held_out=False)
    grounds = load_backgrounds(args.backgrounds, held_out=args.held_out)
    teacher = LivenessTeacher(args.teachers)
    kinds = [one for one in SPECIES if args.held_out or one != HELD_OUT]
    for shard in range(*args.shards):
        if (args.pool / f"take-{shard:04d}.npz").exists():
            continue
        began = time.monotonic()
        stage = Stage(portraits, grounds, np.random.default_rng([shard, int(args.held_out)]))
        images = np.empty((args.per_shard, 2 * SIDE, SIDE, 3), np.uint8)
        labels, answers = [], []
        for k in range(args.per_shard):
            number, again = divmod(k, args.views)
            if not again:
                label = BONA_FIDE if number % 2 == 0 else kinds[number // 2 % len(kinds)]
                take = stage.take(label)
            images[k], frame = stage.view(take)
            labels.append(label)
            answers.append([np.nan, np.nan] if again else teacher(frame.image, frame.box))
        temporary = args.pool / f".take-{shard:04d}.npz"
        np.savez(temporary, image=images, label=np.array(labels), teacher=np.array(answers, np.float32))
        temporary.replace(args.pool / f"take-{shard:04d}.npz")
        print(f"shard {shard}: {args.per_shard} takes in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
