# SPDX-License-Identifier: Apache-2.0
"""Distil the embedder: final embedding, similarity structure and two feature maps of the teacher.

tools/train embedder POOL RUN --steps 60000 --dev LFW_DEV --shards FAIRFACE --ship PAIRS.csv --fill FACES

Stopping and starting again resumes from RUN/last.pt; a changed ``--steps`` stretches the schedule. A new run begins
with the weights in ``models/train/embedder.pt`` unless ``--init`` names others or ``--fresh`` wants none: an embedder
that is to know portraits alone wants one of both. It takes a GPU where there is one. Every so many steps it tells the
cosine to the teacher on a trained shard (seen), on shard 0, which is never trained on, and on photos of ``--dev`` and
of the last three of ``--shards``. ``--ship`` ends it as ``tools/train ship`` does: int8 file, manifest, policy, card.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.lib.train import ship, watched
from tools.lib.train.loop import Turn, add_options, begin, train
from tools.lib.train.net import DEPTHS, EmbedderNet
from tools.lib.train.pool import CLIP_SIGMA
from tools.lib.train.precision import CPU, best_device, mixed

MAP_STEP = CLIP_SIGMA / 127  # stored int8 maps to unit variance
EMA_DECAY = 0.999
JITTER = (0.05, 0.035, 0.025, 0.025)  # deviations: radians, log of the scale, shifts in half pictures
TELL_EVERY = 500  # steps: about a minute and a half on one core
SHIPPED = Path(__file__).resolve().parents[3] / "models" / "train" / "embedder.pt"


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

    def __len__(self) -> int:
        return sum(len(shard["image"]) for shard in self.shards)

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


def to_input(images: np.ndarray, device: torch.device = CPU) -> Tensor:
    """uint8 NHWC to float NCHW in [-1, 1): (x - 128) / 128 is exact in the int8 model too."""
    pixels = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2)  # a view: memory stays channels-last
    return pixels.float().sub_(128).div_(128)


def disturb(x: Tensor, generator: torch.Generator, jitter: float = 0.0) -> Tensor:
    """Gain per picture, and with ``jitter`` 1 the turns, scales and shifts by which landmarks err.

    The target stays the teacher's answer to the picture before that: the student learns not to mind. The dice are the
    processor's on every machine, the pictures stay where they are.
    """
    gain = 1 + 0.08 * torch.randn((len(x), 1, 1, 1), generator=generator).to(x.device)
    x = (x * gain).clamp_(-1, 1)
    if not jitter:
        return x
    dice = jitter * torch.tensor(JITTER)[:, None] * torch.randn((4, len(x)), generator=generator)
    turn, grow, right, down = dice.to(x.device)
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
    """Mean cosine to the teacher on the first ``count`` crops of a shard."""
    net.eval()
    device = next(net.parameters()).device
    cosines = []
    for start in range(0, min(count, len(shard["image"])), 128):
        rows = slice(start, start + 128)
        out = net(to_input(shard["image"][rows], device).contiguous(memory_format=torch.channels_last))
        target = torch.from_numpy(shard["embedding"][rows].astype(np.float32)).to(device)
        cosines.append(functional.cosine_similarity(out, target))
    return float(torch.cat(cosines).mean())


@torch.no_grad()
def recalibrate(net: nn.Module, pool: Pool, batches: int = 40) -> None:
    """Measure batch-norm statistics anew for averaged weights: the average of statistics is not theirs.

    A pool of fewer pictures than so many batches is gone through about once.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain mean over all batches
    net.train()
    rng = np.random.default_rng(0)
    for _ in range(min(batches, -(-len(pool) // 128))):
        net(to_input(pool.batch(128, rng)[0]))
    net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("run", type=Path)
    add_options(parser, steps=60_000, batch=128)
    parser.add_argument("--fresh", action="store_true", help="begin with random weights, not with the shipped ones")
    parser.add_argument("--jitter", type=float, default=0.0, help="misalignment that the targets do not follow, 0 or 1")
    parser.add_argument("--depths", type=int, nargs=3, default=DEPTHS, help="blocks of the three stages")
    watched.add_options(parser)
    ship.add_options(parser)
    args = parser.parse_args()
    ship.check(args)
    begin(args)
    if args.init is None and not args.fresh:
        args.init = SHIPPED
    device = best_device()
    student = Student(EmbedderNet(depths=tuple(args.depths)), 128, 192).to(memory_format=torch.channels_last)
    pool, held = Pool(args.pool), load_shard(args.pool, 0)
    sets = {"seen": pool.shards[0], "unseen": held, **watched.sets(args)}

    def turn(now: Turn) -> tuple[Tensor, Tensor]:
        return cost(student, pool.batch(args.batch, now.rng), now, args.jitter, device)

    def tell(average: Student) -> str:
        pool.refresh()
        cosines = " ".join(f"{name} {held_out(average.net, shard):.4f}" for name, shard in sets.items())
        return f"cosine {cosines} {len(pool.shards)} shards"

    train(student, args, turn, tell, decay=EMA_DECAY, every=TELL_EVERY, device=device)
    if args.ship:
        ship.ship(args.run / "last.pt", args)


def cost(
    student: Student, batch: tuple[np.ndarray, ...], now: Turn, jitter: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The terms and the loss of one batch, all of it computed on ``device``."""
    images, embedding, map14, map7 = batch
    x = disturb(to_input(images, device), now.noise, jitter)
    maps = [torch.from_numpy(m).to(device).permute(0, 3, 1, 2).float() * MAP_STEP for m in (map14, map7)]
    with mixed(device):
        out = student(x)
    target = torch.from_numpy(embedding.astype(np.float32)).to(device)
    terms = loss_terms(out, (target, maps[0], maps[1]))
    map_weight = 0.6 * (1 - now.progress) + 0.1  # maps lead early, the embedding decides late
    return torch.stack(terms), 2 * terms[0] + 10 * terms[1] + map_weight * (terms[2] + terms[3])


if __name__ == "__main__":
    main()
