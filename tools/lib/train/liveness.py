# SPDX-License-Identifier: Apache-2.0
"""Train the liveness network: whether two cuts of a frame show a person or an attack.

tools/train liveness RUN POOL --steps 5000 --borrow models/train/landmarks.pt
tools/train export-liveness RUN/last.pt POOL models/liveness.tflite

What it should say is known, as every take was made. Of people it is told less where the teachers doubt as well; of
everything it has to tell, by an output that training alone has, what the teachers say: they saw real attacks. Shard 0
is never trained on. Stopping and starting again resumes from RUN/last.pt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.lib.train.checkpoints import opened
from tools.lib.train.embedder import to_input
from tools.lib.train.loop import Turn, add_options, begin, train
from tools.lib.train.net import ConvNorm, Residual
from tools.lib.train.precision import mixed

EMA_DECAY = 0.995
SAVE_EVERY = 200  # steps
BONA_FIDE = "bona-fide"
SURE = 0.97  # of a label: nobody learns from what cannot be told apart
DOUBT = 0.25  # how much the teachers' doubt takes from what a person's label says
LISTEN = 0.5  # weight of the teachers' answers
LOGIT = 8.0  # answers beyond only stretch the int8 scale
CUTOUT, CUTOUT_SIDE = 0.25, (8, 28)  # share of takes of which a square is covered, and its side in pixels


class LivenessNet(nn.Module):
    """160x80x3 in [-1, 1), two cuts one above the other, to (n, 3, 1, 1): logits of ours and of the two teachers.

    The first layers are those of ``LandmarkNet``, from which they may come (``borrow``). 35 million multiplications.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(3, 16, 3, 2),
            ConvNorm(16, 32, 3, 2),
            Residual(32, 32),
            Residual(32, 64, 2),
            ConvNorm(64, 96, 3, 2),
            ConvNorm(96, 128, 1),
            Whole(128),
        )
        self.live = nn.Conv2d(128, 1, 1)
        self.teachers = nn.Conv2d(128, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return torch.cat([self.live(x), self.teachers(x)], 1)


def borrow(net: LivenessNet, landmarks: Path) -> None:
    """Begin with what the landmark network's first layers see in faces."""
    theirs = opened(landmarks)["average"]
    for mine, other in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5)):
        prefix = f"body.{other}."
        part = {key.removeprefix(prefix): value for key, value in theirs.items() if key.startswith(prefix)}
        net.body[mine].load_state_dict(part)


class Whole(nn.Sequential):
    """The map of 10x5 to one place: a depthwise kernel of its size, as ``net.EmbedderNet`` has it."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Conv2d(width, width, (10, 5), groups=width, bias=False), nn.BatchNorm2d(width))


class Pool:
    """All shards but the first, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._taken = folder, {folder / "take-0000.npz"}
        self.images = np.empty((0, 160, 80, 3), np.uint8)
        self.people, self.teachers = np.empty(0, np.float32), np.empty((0, 2), np.float32)
        self.refresh()

    def refresh(self) -> None:
        """Take up shards that were finished since the last look."""
        fresh = sorted(set(self.folder.glob("take-*.npz")) - self._taken)
        self._taken |= set(fresh)
        for path in fresh:
            images, labels, teachers = load(path)
            self.images = np.concatenate([self.images, images])
            self.people = np.concatenate([self.people, (labels == BONA_FIDE).astype(np.float32)])
            self.teachers = np.concatenate([self.teachers, teachers])

    def batch(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = rng.integers(len(self.images), size=size)
        images = self.images[rows]
        flipped = rng.random(size) < 0.5
        images[flipped] = images[flipped, :, ::-1]
        for k in np.flatnonzero(rng.random(size) < CUTOUT):
            side = int(rng.integers(*CUTOUT_SIDE))
            top, left = int(rng.integers(160 - side)), int(rng.integers(80 - side))
            images[k, top : top + side, left : left + side] = rng.integers(0, 256, 3)
        return images, self.people[rows], self.teachers[rows]


def load(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures uint8 (n, 160, 80, 3), names of species, and shares of certainty (n, 2) of one shard."""
    with np.load(path) as shard:
        return shard["image"], shard["label"], shard["teacher"]


def disturb(x: Tensor, generator: torch.Generator) -> Tensor:
    """Light and colour by chance: of the camera, not of the medium."""
    shape = (len(x), 1, 1, 1)
    gain = 1 + 0.15 * torch.randn(shape, generator=generator)
    tint = 1 + 0.04 * torch.randn((len(x), 3, 1, 1), generator=generator)
    offset = 0.06 * torch.randn(shape, generator=generator)
    return (x * gain * tint + offset).clamp_(-1, 1).contiguous(memory_format=torch.channels_last)


def losses(out: Tensor, people: Tensor, teachers: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of the own answer and of the teachers' answers, which are NaN where they were not asked."""
    out, asked = out.float().flatten(1), torch.isfinite(teachers[:, 0])
    doubted = people * (1 - DOUBT * (1 - teachers.mean(1).nan_to_num(1.0)))
    live = functional.binary_cross_entropy_with_logits(out[:, 0], doubted * (2 * SURE - 1) + (1 - SURE))
    alike = functional.binary_cross_entropy_with_logits(out[asked, 1:], teachers[asked].clamp(0.02, 0.98))
    return live + 0.01 * functional.relu(out.abs() - LOGIT).square().mean(), alike


@torch.no_grad()
def answers(net: LivenessNet, images: np.ndarray) -> np.ndarray:
    """Logits float32 (n, 3) of ours and both teachers' heads."""
    net.eval()
    parts = [
        net(to_input(images[k : k + 128]).contiguous(memory_format=torch.channels_last)).flatten(1)
        for k in range(0, len(images), 128)
    ]
    return torch.cat(parts).numpy()


def told(net: LivenessNet, images: np.ndarray, labels: np.ndarray) -> str:
    """APCER of each species where a twentieth of people is refused."""
    logits = answers(net, images)[:, 0]
    edge = float(np.quantile(logits[labels == BONA_FIDE], 0.05))
    kinds = sorted(set(labels) - {BONA_FIDE})
    return " ".join(f"{kind} {float((logits[labels == kind] > edge).mean()):.3f}" for kind in kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("pool", type=Path)
    add_options(parser, steps=5000, batch=128)
    parser.add_argument("--borrow", type=Path, metavar="LANDMARKS.pt", help="begin with this network's first layers")
    args = parser.parse_args()
    begin(args)
    net = LivenessNet().to(memory_format=torch.channels_last)
    if args.borrow:
        borrow(net, args.borrow)
    pool = Pool(args.pool)
    images, labels, _ = load(args.pool / "take-0000.npz")

    def turn(now: Turn) -> tuple[Tensor, Tensor]:
        pictures, people, teachers = pool.batch(args.batch, now.rng)
        x = disturb(to_input(pictures), now.noise)
        with mixed():
            out = net(x)
        live, alike = losses(out, torch.from_numpy(people), torch.from_numpy(teachers))
        return torch.stack([live, alike]), live + LISTEN * alike

    def tell(average: LivenessNet) -> str:
        pool.refresh()
        return f"APCER at BPCER 0.05: {told(average, images, labels)}; {len(pool.images)} takes"

    train(net, args, turn, tell, decay=EMA_DECAY, every=SAVE_EVERY)


if __name__ == "__main__":
    main()
