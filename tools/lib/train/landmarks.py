# SPDX-License-Identifier: Apache-2.0
"""Train the landmark network: five points in a patch, and whether it shows a face at all.

tools/train landmarks RUN POOL --steps 6000
tools/train export-landmarks RUN/last.pt POOL models/landmarks.tflite

Shard 0 of the pool is never trained on. Stopping and starting again resumes from RUN/last.pt; a new run goes on where
the shipped weights are with ``--init models/train/landmarks.pt``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.lib.train.embedder import to_input
from tools.lib.train.loop import Turn, add_options, begin, train
from tools.lib.train.net import ConvNorm, Residual
from tools.lib.train.precision import mixed

EMA_DECAY = 0.998
SAVE_EVERY = 250  # steps
SWAP = [2, 3, 0, 1, 4, 5, 8, 9, 6, 7]  # landmark coordinates after a flip
# Landmark errors in eye distances (about 0.29 of a patch); beyond BEND a larger error pulls no harder.
EYES, BEND = 0.29, 0.05
WEIGHT = 12.0  # of the landmarks against the score
UNSEEN, LEAST = 0.3, 0.003  # how wrong the network is taken to be about a patch that it has not seen, and at least
LIMIT = 0.6  # shares of the patch: what lies farther out only stretches the int8 scale
LOGIT = 9.0  # likewise for the score


class LandmarkNet(nn.Module):
    """64x64x3 in [-1, 1) to (n, 11, 1, 1): a logit and five x, y in shares of the patch from its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(3, 16, 3, 2),
            ConvNorm(16, 32, 3, 2),
            Residual(32, 32),
            Residual(32, 64, 2),
            Residual(64, 64),
            ConvNorm(64, 96, 3, 2),
            ConvNorm(96, 96, 4, pad=0),
        )
        self.score = nn.Conv2d(96, 1, 1)
        self.marks = nn.Conv2d(96, 10, 1)
        nn.init.normal_(self.marks.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return torch.cat([self.score(x), self.marks(x)], 1)


class Pool:
    """All shards but the first in memory; batches of two thirds faces, and others, half of these hard ones."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._taken = folder, {folder / "patch-0000.npy"}
        self.patches, self.labels = np.empty((0, 64, 64, 3), np.uint8), np.empty((0, 12), np.float32)
        self._wrong = np.empty(0, np.float32)  # how wrong the network was about a patch when it last saw it
        self.refresh()

    def refresh(self) -> None:
        """Take up shards that were finished since the last look."""
        paths = sorted(set(self.folder.glob("patch-*.npy")) - self._taken)
        self._taken |= set(paths)
        if paths:
            fresh = [load(self.folder, int(path.stem.rpartition("-")[2])) for path in paths]
            self.patches = np.concatenate([self.patches, *[p for p, _ in fresh]])
            self.labels = np.concatenate([self.labels, *[rows for _, rows in fresh]])
            unseen = np.full(len(self.labels) - len(self._wrong), UNSEEN, np.float32)
            self._wrong = np.concatenate([self._wrong, unseen])
            self._faces, self._others = (np.flatnonzero(self.labels[:, 0] == kind) for kind in (1, 0))

    def batch(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        count = size // 6
        reach = np.cumsum(self._wrong[self._others], dtype=np.float64)
        hard = self._others[
            np.searchsorted(reach, rng.uniform(0, reach[-1], count), side="right").clip(0, len(reach) - 1)
        ]
        faces, others = rng.choice(self._faces, size - 2 * count), rng.choice(self._others, count)
        self._drawn = rows = np.concatenate([faces, others, hard])
        patches, labels = self.patches[rows], self.labels[rows].copy()
        flipped = rng.random(size) < 0.5
        patches[flipped] = patches[flipped, :, ::-1]
        marks = labels[flipped, 2:]
        marks[:, ::2] *= -1
        labels[flipped, 2:] = marks[:, SWAP]
        return patches, labels

    def judge(self, logit: np.ndarray) -> None:
        """Note how wrong the network was about the last batch."""
        score = 1 / (1 + np.exp(-logit))
        self._wrong[self._drawn] = LEAST + np.abs(self.labels[self._drawn, 0] - score)


def load(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / f"patch-{number:04d}.npy"), np.load(folder / f"label-{number:04d}.npy")


def tint(patches: np.ndarray, generator: torch.Generator) -> Tensor:
    x = to_input(patches)
    gain = 1 + 0.12 * torch.randn((len(x), 3, 1, 1), generator=generator)
    lift = 0.06 * torch.randn((len(x), 3, 1, 1), generator=generator)
    return (x * gain + lift).clamp_(-1, 1)


def loss_terms(out: Tensor, labels: Tensor) -> Tensor:
    """Score (binary cross entropy), landmarks (smooth L1 in eye distances), range."""
    logit, marks = out[:, 0], out[:, 1:]
    score = functional.binary_cross_entropy_with_logits(logit, labels[:, 0])
    known = labels[:, 1] > 0
    error = (marks[known] - labels[known, 2:]) / EYES
    points = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=BEND)
    bound = (marks - marks.clamp(-LIMIT, LIMIT)).square().mean() + (logit - logit.clamp(-LOGIT, LOGIT)).square().mean()
    return torch.stack([score, points, bound])


@torch.no_grad()
def held_out(net: LandmarkNet, held: tuple[np.ndarray, np.ndarray]) -> str:
    """Landmark error in eye distances, and both kinds of wrong verdict, on the shard that is never trained on."""
    net.eval()
    patches, labels = held
    out = torch.cat([net(to_input(p)).flatten(1) for p in np.array_split(patches, 20)]).numpy()
    known = labels[:, 1] > 0
    marks, truth = (rows[known][:, -10:].reshape(-1, 5, 2) for rows in (out, labels))
    eyes = np.hypot(*(truth[:, 0] - truth[:, 1]).T)
    error = np.hypot(*(marks - truth).transpose(2, 0, 1)).mean(1) / np.maximum(eyes, 0.1)
    faces, others = out[known, 0], out[labels[:, 0] == 0, 0]
    least = np.quantile(faces, 0.002)
    return f"error {error.mean():.4f}; {np.mean(others > least):.4f} of the others pass with 99.8 % of the faces"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("pool", type=Path)
    add_options(parser, steps=6000, batch=192)
    args = parser.parse_args()
    begin(args)
    net = LandmarkNet().to(memory_format=torch.channels_last)
    pool, held = Pool(args.pool), load(args.pool, 0)

    def turn(now: Turn) -> tuple[Tensor, Tensor]:
        patches, labels = pool.batch(args.batch, now.rng)
        with mixed():
            out = net(tint(patches, now.noise))
        pool.judge(out.detach()[:, 0].float().flatten().numpy())
        terms = loss_terms(out.float().flatten(1), torch.from_numpy(labels))
        return terms, terms[0] + WEIGHT * terms[1] + terms[2]

    def tell(average: LandmarkNet) -> str:
        pool.refresh()
        return f"held-out {held_out(average, held)}; {len(pool.labels)} patches"

    train(net, args, turn, tell, decay=EMA_DECAY, every=SAVE_EVERY)


if __name__ == "__main__":
    main()
