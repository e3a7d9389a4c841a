# SPDX-License-Identifier: Apache-2.0
"""1:1 verification over listed pairs, by the protocol of Labeled Faces in the Wild.

Failures to detect count as non-matches: they cost mated pairs and favour non-mated ones. With some thousand pairs the
figures hang on few of them: ``--repeats`` measures again with landmarks that are moved by a hundredth of a pixel, and
tells mean, deviation and least over those runs. Compare models by these.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.lib.evaluate import metrics
from tools.lib.evaluate.arguments import existing_file, some, to_write
from tools.lib.evaluate.rates import rate
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments

FARS = (1e-2, 1e-3)

Pairs = tuple[list[str], list[str], NDArray[np.bool_]]  # the two sides, and whether they show one person


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument(
        "--pairs", type=existing_file, required=True, help="CSV with the columns a, b (paths in it) and same (0/1)"
    )
    parser.add_argument("--limit", type=some, help="only the first so many pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle into ten folds")
    parser.add_argument("--repeats", type=int, default=0, metavar="N", help="measure N times more, trembling a little")
    parser.add_argument(
        "--vectors", type=to_write, metavar="FILE.npz", help="write names and vectors (NaN: nobody found)"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    pairs = read_pairs(args.pairs, args.limit)
    names = sorted({*pairs[0], *pairs[1]})
    recogniser = Recogniser(args)
    paths = [args.images / name for name in names]
    vectors = recogniser.embeddings(paths)
    if args.vectors:
        np.savez(args.vectors, names=np.array(names), vectors=vectors)
    report = figures(vectors, names, pairs, args.seed)
    if args.repeats:
        again = []
        for repeat in range(args.repeats):
            recogniser.tremble = np.random.default_rng(repeat)
            again.append(figures(recogniser.embeddings(paths), names, pairs, args.seed))
        report["repeated"] = spread(again)
    return {
        **report,
        "cpu_milliseconds": recogniser.times.summary(),
        "models": recogniser.names,
        "note": "failures to detect count as non-matches",
    }


def figures(vectors: NDArray[np.float32], names: list[str], pairs: Pairs, seed: int) -> dict[str, Any]:
    """Return the error rates of ``vectors`` (n, d; NaN: no face), one per name, over ``pairs``."""
    a, b, same = pairs
    row = {name: index for index, name in enumerate(names)}
    first, second = (vectors[[row[name] for name in side]] for side in (a, b))
    scores = pair_scores(first, second)
    mated, non_mated = scores[same], scores[~same]
    accuracy = metrics.fold_accuracy(scores, same, seed)
    return {
        "pairs": len(scores),
        "mated_pairs": int(same.sum()),
        "images": len(names),
        "failed_to_detect": int(np.isnan(vectors).any(1).sum()),
        "pairs_with_a_failure": int(np.isneginf(scores).sum()),
        "accuracy": accuracy.mean,
        "accuracy_95": interval(accuracy.mean, len(scores)),
        "accuracy_deviation": accuracy.deviation,
        "accuracy_threshold": accuracy.threshold,
        "equal_error_rate": metrics.equal_error_rate(mated, non_mated),
        "tar_at_far": {f"{far:g}": metrics.tar_at_far(mated, non_mated, far) for far in FARS},
        "tar_at_far_95": {f"{far:g}": interval(metrics.tar_at_far(mated, non_mated, far), len(mated)) for far in FARS},
        "threshold_at_far": {f"{far:g}": metrics.threshold_at(non_mated, far) for far in FARS},
        "mean_score": {"mated": finite_mean(mated), "non_mated": finite_mean(non_mated)},
    }


def interval(share: float, count: int) -> list[float]:
    """The 95 % interval of a share of ``count`` pairs, each counted as if it shared no picture with another."""
    told = rate("share", round(share * count), count)
    return [told["share_low"], told["share_high"]]


def spread(reports: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean, deviation and least of the error rates over several runs of ``figures``."""
    values = {
        "accuracy": [report["accuracy"] for report in reports],
        "equal_error_rate": [report["equal_error_rate"] for report in reports],
        **{f"tar_at_far_{far:g}": [report["tar_at_far"][f"{far:g}"] for report in reports] for far in FARS},
    }
    return {
        name: {"mean": float(np.mean(rows)), "deviation": float(np.std(rows)), "least": min(rows)}
        for name, rows in values.items()
    }


def pair_scores(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row pair; minus infinity where a row is NaN."""
    scores = np.einsum("nd,nd->n", first.astype(np.float64), second.astype(np.float64))
    return np.where(np.isnan(scores), -np.inf, scores)


def finite_mean(scores: NDArray[np.float64]) -> float | None:
    """Return the mean of what was scored, None for nothing."""
    kept = scores[np.isfinite(scores)]
    return float(kept.mean()) if kept.size else None


def read_pairs(path: Path, limit: int | None) -> Pairs:
    """Return the two sides and whether they show one person."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:limit]
    if not rows or not {"a", "b", "same"} <= set(rows[0]):
        raise SystemExit(f"tools/evaluate: {path} needs the columns a, b, same and at least one pair")
    same = np.array([row["same"] in ("1", "true", "True") for row in rows])
    if same.all() or not same.any():
        raise SystemExit(f"tools/evaluate: {path} needs mated and non-mated pairs")
    return [row["a"] for row in rows], [row["b"] for row in rows], same
