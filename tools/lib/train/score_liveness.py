# SPDX-License-Identifier: Apache-2.0
"""What a listed liveness network makes of simulated takes that no training saw, beside its teachers.

tools/train score-liveness TEST --name liveness

One take is one look; a unit decides by the mean of several. Attacks are counted where a twentieth of people is refused,
and at the listed working point; intervals are Wilson's, 95 %. Simulated attacks rank ideas: they give no APCER.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from agent.inference.engine import load_engine
from agent.unit.liveness import make_passive
from tools.lib.evaluate.pad import rate
from tools.lib.evaluate.recogniser import DEFAULT_MANIFEST
from tools.lib.train.liveness import BONA_FIDE, load
from tools.lib.train.media import HELD_OUT

REFUSED = 0.05  # of people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("test", type=Path, help="of tools/train presentations --held-out")
    parser.add_argument("--models", type=Path, default=DEFAULT_MANIFEST)
    parser.add_argument("--name", default="liveness")
    args = parser.parse_args()
    engine = load_engine(args.models, args.name)
    shards = [load(path) for path in sorted(args.test.glob("take-*.npz"))]
    images, labels, teachers = (np.concatenate(parts) for parts in zip(*shards, strict=True))
    ours = np.array([engine.dequantise("pad", engine.run(image)["pad"]).item() for image in images])
    told("teachers", teachers.mean(1), labels, None)
    told(args.name, ours, labels, make_passive(engine).edge)


def told(name: str, said: np.ndarray, labels: np.ndarray, edge: float | None) -> None:
    """Print the errors at the edge where ``REFUSED`` of people are refused, and at the listed one."""
    known = np.isfinite(said)
    said, labels = said[known], labels[known]
    people = labels == BONA_FIDE
    print(f"{name}: area under the curve {auc(said[people], said[~people]):.3f}")
    for what, value in (("at BPCER 0.05", float(np.quantile(said[people], REFUSED))), ("at the working point", edge)):
        if value is None:
            continue
        print(f"  {what}: {value:.2f}, BPCER {spelled(said[people] < value)}")
        for kind in sorted(set(labels) - {BONA_FIDE}):
            held = " (held out)" if kind == HELD_OUT else ""
            print(f"    {kind}{held}: APCER {spelled(said[labels == kind] >= value)}")


def spelled(hits: np.ndarray) -> str:
    found = rate("share", int(hits.sum()), len(hits))
    return f"{found['share']:.3f} ({found['share_low']:.3f} to {found['share_high']:.3f}) of {len(hits)}"


def auc(people: np.ndarray, attacks: np.ndarray) -> float:
    """Share of pairs in which the person looks more alive."""
    order = np.sort(attacks)
    return float(
        (np.searchsorted(order, people, "left") + np.searchsorted(order, people, "right")).mean() / 2 / len(order)
    )


if __name__ == "__main__":
    main()
