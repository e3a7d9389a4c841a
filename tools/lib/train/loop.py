# SPDX-License-Identifier: Apache-2.0
"""The one loop that all networks are trained by: schedule, clipping, averaged weights, saving, going on, telling.

A run is a folder with ``last.pt``, from which stopping and starting again goes on, on another kind of machine too; a
changed ``--steps`` stretches the schedule. It is written every few minutes, however slow the machine. What differs
between networks is a turn: a batch, what the network makes of it, and what it costs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tools.lib.train.checkpoints import begin_from, keep, save
from tools.lib.train.precision import CPU, described

CLIP = 5.0  # of the gradient's norm
WEIGHT_DECAY = 0.02
SAVE_S = 180.0  # seconds between two checkpoints at the most, and a step: what a power cut costs


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a run is: the step, the share of the schedule behind it, and its two sources of chance."""

    step: int
    progress: float
    rng: np.random.Generator
    noise: torch.Generator


def add_options(parser: argparse.ArgumentParser, *, steps: int, batch: int) -> None:
    """The options that every network's training takes."""
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", type=Path, help="start from these weights (models/train/, tools/train from-tflite)")
    parser.add_argument("--keep", type=Path, help="write the averaged weights here too, as float16")


def begin(args: argparse.Namespace) -> None:
    """Before a network is made: its first weights come from the seed."""
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)


def train(
    net: nn.Module,
    args: argparse.Namespace,
    turn: Callable[[Turn], tuple[Tensor, Tensor]],
    tell: Callable[[nn.Module], str],
    *,
    decay: float,
    every: int,
    device: torch.device = CPU,
    save_s: float = SAVE_S,
) -> None:
    """Train ``net``, which is in channels-last memory and moves to ``device``, until ``args.steps``.

    ``turn`` gives the terms to tell about and the loss; ``tell`` says how the averaged weights do. Both are told every
    ``every`` steps and at the end; the run is saved then, and where ``save_s`` seconds passed.
    """
    if args.init:
        begin_from(args.init, net)
    net.to(device)
    average = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=WEIGHT_DECAY)
    step, last = 0, args.run / "last.pt"
    if last.exists():
        state = torch.load(last, weights_only=True, map_location=device)
        net.load_state_dict(state["net"])
        average.module.load_state_dict(state["average"])
        average.n_averaged += 1
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    rng, noise = np.random.default_rng([args.seed, step]), torch.Generator().manual_seed(args.seed + step)
    print(f"training in {described(device)} from step {step}", flush=True)
    began, saved, told = time.monotonic(), time.monotonic(), []
    while step < args.steps:
        progress = step / args.steps
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(args.rate, progress)
        net.train()
        terms, loss = turn(Turn(step, progress, rng, noise))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimiser.step()
        average.update_parameters(net)
        step += 1
        told.append(terms.detach())
        telling = step % every == 0 or step == args.steps
        if telling:
            speed = len(told) * args.batch / (time.monotonic() - began)
            print(
                f"step {step} loss {spell(torch.stack(told).mean(0))} {tell(average.module)} {speed:.0f}/s", flush=True
            )
            began, told = time.monotonic(), []
        if telling or time.monotonic() - saved >= save_s:
            state = {"net": net.state_dict(), "average": average.module.state_dict()}
            save(last, {**state, "optimiser": optimiser.state_dict(), "step": step})
            if args.keep:
                keep(args.keep, average.module)
            saved = time.monotonic()


def learning_rate(peak: float, progress: float) -> float:
    """Short warm-up, then a cosine to 1 % of the peak."""
    return peak * min(1.0, progress / 0.01 + 0.02) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def spell(terms: Tensor) -> str:
    return " ".join(f"{float(value):.4f}" for value in terms)
