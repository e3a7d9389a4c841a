# SPDX-License-Identifier: Apache-2.0
"""Distil the embedder: final embedding, similarity structure and two feature maps of the teacher.

tools/train embedder POOL RUN --steps 60000

Shard 0 of the pool is never trained on; its cosine to the teacher is the only figure looked at while training.
Stopping and starting again resumes from RUN/last.pt; a changed ``--steps`` stretches the schedule.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.lib.train.loop import Turn, add_options, begin, train
from tools.lib.train.net import DEPTHS, EmbedderNet
from tools.lib.train.pool import CLIP_SIGMA
from tools.lib.train.precision import mixed

MAP_STEP = CLIP_SIGMA / 127  # stored int8 maps to unit variance
EMA_DECAY = 0.999
JITTER = (0.05, 0.035, 0.025, 0.025)  # deviations: radians, log of the scale, shifts in half pictures
SAVE_EVERY = 500  # steps: about a minute and a half on one core


class Pool:
    """Random batches from memory-mapped shards."""

    def __init__(self, folder: Path, first: int = 1) -> None:
        self.folder = folder
        self.shards: list[dict[str, np.ndarray]] = []
        self._next = first
        self.refresh()

    def refresh(self) -> None:
        """Take up shards that were finished since the last look."""
        while (self.folder / f"image-{self._next:04d}.npy").exists():
            self.shards.append(load_shard(self.folder, self._next))
            self._next += 1

    def batch(self, size: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        which = rng.integers(len(self.shards), size=size)
        row = rng.integers(len(self.shards[0]["image"]), size=size)
        return tuple(
            np.stack([self.shards[s][name][r] for s, r in zip(which, row, strict=True)])
            for name in ("image", "embedding", "map14", "map7")
        )


def load_shard(folder: Path, number: int) -> dict[str, np.ndarray]:
    names = ("image", "embedding", "map14", "map7")
    return {name: np.load(folder / f"{name}-{number:04d}.npy", mmap_mode="r") for name in names}


def to_input(images: np.ndarray) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1): (x - 128) / 128 is exact in the int8 model too."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)  # a view: memory stays channels-last
    return pixels.float().sub_(128).div_(128)


def disturb(x: Tensor, generator: torch.Generator, jitter: float = 0.0) -> Tensor:
    """Gain per picture, and with ``jitter`` 1 the turns, scales and shifts by which landmarks err.

    The target stays the teacher's answer to the picture before that: the student learns not to mind.
    """
    gain = 1 + 0.08 * torch.randn((len(x), 1, 1, 1), generator=generator)
    x = (x * gain).clamp_(-1, 1)
    if not jitter:
        return x
    turn, grow, right, down = jitter * torch.tensor(JITTER)[:, None] * torch.randn((4, len(x)), generator=generator)
    cos, sin = torch.cos(turn) * torch.exp(grow), torch.sin(turn) * torch.exp(grow)
    warp = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = functional.affine_grid(warp, list(x.shape), align_corners=False)
    warped = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    return warped.contiguous(memory_format=torch.channels_last)


class Student(nn.Module):
    """The net and the 1x1 adaptors that translate its maps into the teacher's (FitNets, Romero et al. 2015)."""

    def __init__(self, net: EmbedderNet, width14: int, width7: int) -> None:
        super().__init__()
        self.net, self.adapt14, self.adapt7 = net, nn.Conv2d(width14, 128, 1), nn.Conv2d(width7, 128, 1)

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> Student:
        """The student whose weights ``state`` holds, as deep as it was."""
        names = {key.removeprefix("net.").rsplit(".", 3)[0] for key in state if key.endswith(".second.0.weight")}
        depths = (sum(name.startswith(f"{stage}.") for name in names) for stage in ("stage28", "stage14", "stage7"))
        student = cls(EmbedderNet(depths=tuple(depths)), 128, 192)
        student.load_state_dict(state)
        return student

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embedding, f14, f7 = self.net.features(x)
        return embedding, self.adapt14(f14), self.adapt7(f7)


def loss_terms(student: tuple[Tensor, Tensor, Tensor], target: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """1 - cosine, error of the batch's similarity matrix, and the two map errors (unit variance)."""
    mine, theirs = functional.normalize(student[0].float()), functional.normalize(target[0])
    cosine = 1 - (mine * theirs).sum(1).mean()
    relation = functional.mse_loss(mine @ mine.T, theirs @ theirs.T)
    return (
        cosine,
        relation,
        functional.mse_loss(student[1].float(), target[1]),
        functional.mse_loss(student[2].float(), target[2]),
    )


@torch.no_grad()
def held_out(net: EmbedderNet, shard: dict[str, np.ndarray], count: int = 1024) -> float:
    """Mean cosine to the teacher on the shard that is never trained on."""
    net.eval()
    cosines = []
    for start in range(0, count, 128):
        rows = slice(start, start + 128)
        out = net(to_input(shard["image"][rows]).contiguous(memory_format=torch.channels_last))
        cosines.append(functional.cosine_similarity(out, torch.from_numpy(shard["embedding"][rows].astype(np.float32))))
    return float(torch.cat(cosines).mean())


@torch.no_grad()
def recalibrate(net: nn.Module, pool: Pool, batches: int = 40) -> None:
    """Measure batch-norm statistics anew for averaged weights: the average of statistics is not theirs."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over all batches
    net.train()
    rng = np.random.default_rng(0)
    for _ in range(batches):
        net(to_input(pool.batch(128, rng)[0]))
    net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("run", type=Path)
    add_options(parser, steps=60_000, batch=128)
    parser.add_argument("--jitter", type=float, default=0.0, help="misalignment that the targets do not follow, 0 or 1")
    parser.add_argument("--depths", type=int, nargs=3, default=DEPTHS, help="blocks of the three stages")
    args = parser.parse_args()
    begin(args)
    student = Student(EmbedderNet(depths=tuple(args.depths)), 128, 192).to(memory_format=torch.channels_last)
    pool, held = Pool(args.pool), load_shard(args.pool, 0)

    def turn(now: Turn) -> tuple[Tensor, Tensor]:
        images, embedding, map14, map7 = pool.batch(args.batch, now.rng)
        x = disturb(to_input(images), now.noise, args.jitter)
        maps = [torch.from_numpy(m).permute(0, 3, 1, 2).float() * MAP_STEP for m in (map14, map7)]
        with mixed():
            out = student(x)
        terms = loss_terms(out, (torch.from_numpy(embedding.astype(np.float32)), maps[0], maps[1]))
        map_weight = 0.6 * (1 - now.progress) + 0.1  # maps lead early, the embedding decides late
        return torch.stack(terms), 2 * terms[0] + 10 * terms[1] + map_weight * (terms[2] + terms[3])

    def tell(average: Student) -> str:
        pool.refresh()
        return f"held-out cosine {held_out(average.net, held):.4f} {len(pool.shards)} shards"

    train(student, args, turn, tell, decay=EMA_DECAY, every=SAVE_EVERY)


if __name__ == "__main__":
    main()
