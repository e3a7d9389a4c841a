# SPDX-License-Identifier: Apache-2.0
"""Distil the embedder: final embedding, similarity structure and two feature maps of the teacher.

python -m tools.lib.train.embedder POOL RUN --steps 60000

Shard 0 of the pool is never trained on; its cosine to the teacher is the only figure looked at while training.
Stopping and starting again resumes from RUN/last.pt; a changed ``--steps`` stretches the schedule.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.lib.train.net import EmbedderNet
from tools.lib.train.pool import CLIP_SIGMA

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


def learning_rate(peak: float, progress: float) -> float:
    """Short warm-up, then a cosine to 1 % of the peak."""
    return peak * min(1.0, progress / 0.01 + 0.02) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


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


def save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jitter", type=float, default=0.0, help="misalignment that the targets do not follow, 0 or 1")
    parser.add_argument("--init", type=Path, help="start from the averaged weights of another run's last.pt")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    student = Student(EmbedderNet(), 128, 192).to(memory_format=torch.channels_last)
    if args.init:
        student.load_state_dict(torch.load(args.init, weights_only=True)["average"])
    average = torch.optim.swa_utils.AveragedModel(
        student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY), use_buffers=True
    )
    optimiser = torch.optim.AdamW(student.parameters(), lr=args.rate, weight_decay=0.02)
    step, last = 0, args.run / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        student.load_state_dict(state["student"])
        average.module.load_state_dict(state["average"])
        average.n_averaged += 1
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    pool, held = Pool(args.pool), load_shard(args.pool, 0)
    rng = np.random.default_rng([args.seed, step])
    noise = torch.Generator().manual_seed(args.seed + step)
    began, sums = time.monotonic(), torch.zeros(4)
    while step < args.steps:
        progress = step / args.steps
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(args.rate, progress)
        images, embedding, map14, map7 = pool.batch(args.batch, rng)
        x = disturb(to_input(images), noise, args.jitter)
        maps = [torch.from_numpy(m).permute(0, 3, 1, 2).float() * MAP_STEP for m in (map14, map7)]
        student.train()
        with torch.autocast("cpu", torch.bfloat16):
            out = student(x)
        terms = loss_terms(out, (torch.from_numpy(embedding.astype(np.float32)), maps[0], maps[1]))
        map_weight = 0.6 * (1 - progress) + 0.1  # maps lead early, the embedding decides late
        loss = 2 * terms[0] + 10 * terms[1] + map_weight * (terms[2] + terms[3])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimiser.step()
        average.update_parameters(student)
        step += 1
        sums += torch.stack([t.detach() for t in terms])
        if step % SAVE_EVERY == 0 or step == args.steps:
            pool.refresh()
            cosine = held_out(average.module.net, held)
            parts = " ".join(f"{float(v) / SAVE_EVERY:.4f}" for v in sums)
            rate = SAVE_EVERY * args.batch / (time.monotonic() - began)
            print(
                f"step {step} loss {parts} held-out cosine {cosine:.4f} {rate:.0f}/s {len(pool.shards)} shards",
                flush=True,
            )
            sums.zero_()
            save(
                last,
                {
                    "student": student.state_dict(),
                    "average": average.module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": step,
                },
            )
            began = time.monotonic()


if __name__ == "__main__":
    main()
