# SPDX-License-Identifier: Apache-2.0
"""Train the face detector on composed scenes.

tools/train detector RUN POOL [POOL ...] --steps 8000

Pools may hold different picture sizes; the first gives most batches. Shard 0 of the first pool is never trained
on: it sets the int8 ranges and gives the held-out loss. Stopping and starting again resumes from RUN/last.pt; a
changed ``--steps`` stretches the schedule. A new run goes on where the shipped weights are with
``--init models/train/detector.pt``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.lib.train.detector_loss import loss_terms
from tools.lib.train.detector_net import DetectorNet
from tools.lib.train.embedder import to_input
from tools.lib.train.loop import Turn, add_options, begin, spell, train
from tools.lib.train.precision import mixed, multiplies_bfloat16

EMA_DECAY = 0.998
SAVE_EVERY = 250  # steps: a minute or two on one core
SHIFT = 24  # pixels: scenes move against the cell grid
CROP = 192  # pixels: two of three batches are square crops around faces, which teach more per multiplication
CROPS_PER_FRAME = 1.5  # crops in a batch of crops for each frame in a batch of frames
CROP_FACE = 120.0  # pixels: larger faces are learnt from whole frames
SEEN = 0.55  # share of a face that a crop must keep for it to count, as in scenes
OTHER_POOLS = 9  # every so many steps a batch of whole frames comes from the other pools
# Score, box, landmarks (small numbers: shares of the face), range. Landmarks only have to tell how a head is turned:
# the landmark network places them.
WEIGHTS = torch.tensor([1.0, 1.0, 8.0, 0.05])
MIRROR = [2, 3, 0, 1, 4, 5, 8, 9, 6, 7]  # landmark coordinates after a flip: left and right change places


class Scenes:
    """Random batches from one pool's memory-mapped shards, taking up shards as they are finished."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder, self._taken = folder, {folder / f"image-{k:04d}.npy" for k in range(first)}
        self.shards: list[tuple[np.ndarray, np.ndarray]] = []
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(set(self.folder.glob("image-*.npy")) - self._taken):
            self._taken.add(path)
            faces = np.load(path.with_name(path.name.replace("image", "faces")))
            self.shards.append((np.load(path, mmap_mode="r"), faces))

    def batch(self, size: int, rng: np.random.Generator, *, crops: bool) -> tuple[np.ndarray, np.ndarray]:
        images, faces = [], []
        for _ in range(size):
            pictures, rows = self.shards[int(rng.integers(len(self.shards)))]
            row = int(rng.integers(len(pictures)))
            image, face = (crop if crops else shift)(pictures[row], rows[row].copy(), rng)
            if rng.random() < 0.5:
                image, face = flip(image, face)
            images.append(image)
            faces.append(face)
        return np.stack(images), np.stack(faces)


def flip(image: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the picture; left and right landmarks change places."""
    width = image.shape[1]
    faces[:, 0] = width - faces[:, 0] - faces[:, 2]
    faces[:, 4:14:2] = width - faces[:, 4:14:2]
    faces[:, 4:14] = faces[:, 4:14][:, MIRROR]
    return image[:, ::-1], faces


def move(faces: np.ndarray, dx: int, dy: int, size: tuple[int, int]) -> np.ndarray:
    """Labels after the picture moved; faces that are mostly outside ``size`` (width, height) do not count."""
    faces[:, :2] += [dx, dy]
    faces[:, 4:14] += np.tile([dx, dy], 5)
    inside = np.clip(np.minimum(faces[:, :2] + faces[:, 2:4], size) - np.maximum(faces[:, :2], 0), 0, None).prod(1)
    cut = inside < SEEN * faces[:, 2:4].prod(1)
    faces[cut, 14] = -np.abs(faces[cut, 14])
    return faces


def shift(image: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Move the whole frame a little; black comes in from the side."""
    height, width = image.shape[:2]
    dx, dy = (int(v) for v in rng.integers(-SHIFT, SHIFT + 1, 2))
    moved = np.zeros_like(image)
    moved[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)] = image[
        max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)
    ]
    return moved, move(faces, dx, dy, (width, height))


def crop(image: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a square, three times in four with one of the smaller faces somewhere in it."""
    height, width = image.shape[:2]
    room = np.array([width - CROP, height - CROP])
    left, top = rng.integers(0, room + 1)
    wanted = faces[(faces[:, 14] > 0) & (faces[:, 2:4].prod(1) < CROP_FACE**2)]
    if len(wanted) and rng.random() < 0.75:
        face = wanted[int(rng.integers(len(wanted)))]
        corner = face[:2] + face[2:4] / 2 - rng.uniform(0.15, 0.85, 2) * CROP
        left, top = np.clip(corner, 0, room).astype(int)
    return image[top : top + CROP, left : left + CROP], move(faces, -int(left), -int(top), (CROP, CROP))


def tint(images: np.ndarray, generator: torch.Generator) -> Tensor:
    """Gain and colour per picture, NCHW in [-1, 1), in the type of the training; scenes bring their own noise."""
    kind = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(kind)
    gain = 1 + 0.1 * torch.randn((len(x), 3, 1, 1), generator=generator)
    lift = 0.05 * torch.randn((len(x), 3, 1, 1), generator=generator)
    return x.sub_(128).div_(128).mul_(gain.to(kind)).add_(lift.to(kind)).clamp_(-1, 1)


@torch.no_grad()
def held_out(net: DetectorNet, pool: Scenes) -> Tensor:
    """Loss terms on the scenes that are never trained on."""
    net.eval()
    images, faces = pool.shards[0]
    parts = []
    for start in range(0, 256, 32):
        rows = slice(start, start + 32)
        with mixed():
            out = net(to_input(images[rows]).contiguous(memory_format=torch.channels_last))
        parts.append(loss_terms(out, torch.from_numpy(faces[rows])))
    return torch.stack(parts).mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("pools", type=Path, nargs="+")
    add_options(parser, steps=8000, batch=32)
    parser.add_argument("--every", type=int, default=OTHER_POOLS, help="steps from one batch of the others to the next")
    args = parser.parse_args()
    begin(args)
    net = DetectorNet().to(memory_format=torch.channels_last)
    held, pools = Scenes(args.pools[0], 0), [Scenes(args.pools[0], 1), *[Scenes(p, 0) for p in args.pools[1:]]]

    def turn(now: Turn) -> tuple[Tensor, Tensor]:
        others = [p for p in pools[1:] if p.shards]
        far = bool(others) and now.step % args.every == 0
        crops = now.step % 3 != 0 and not far
        source = others[(now.step // args.every) % len(others)] if far else pools[0]
        count = args.batch * CROPS_PER_FRAME if crops else args.batch / 4 if far else args.batch
        images, faces = source.batch(max(1, int(count)), now.rng, crops=crops)
        with mixed():
            out = net(tint(images, now.noise))
        terms = loss_terms(out, torch.from_numpy(faces))
        return terms, (terms * WEIGHTS).sum()

    def tell(average: DetectorNet) -> str:
        for pool in pools:
            pool.refresh()
        return f"held-out {spell(held_out(average, held))} {[len(p.shards) for p in pools]} shards"

    train(net, args, turn, tell, decay=EMA_DECAY, every=SAVE_EVERY)


if __name__ == "__main__":
    main()
