# SPDX-License-Identifier: Apache-2.0
"""False matches between different people of the same group, per group.

The groups are the labels that a test set carries in its file names (``label_label_number.jpg``). They exist in this
measurement alone: no model predicts them, and the product has no place to hold them. Every picture must show another
person, so every comparison is non-mated; comparisons within a group are the hard ones, which one figure over all
pictures hides.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.lib.evaluate import metrics, pictures
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments

SHARES = (0.5, 0.99, 0.999)  # quantiles of the non-mated scores that the table shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="pictures label_label_number.jpg, one per person")
    parser.add_argument("--limit", type=int, help="an evenly spread sample of so many pictures")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=float, help="the working threshold")
    point.add_argument(
        "--far", type=float, default=1e-3, help="the threshold of this FMR over all; default: %(default)s"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    paths = pictures.find(args.images, args.limit)
    labels = np.array(["_".join(path.stem.split("_")[:-1]) or "unlabelled" for path in paths])
    recogniser = Recogniser(args)
    vectors = recogniser.embeddings(paths)
    failed = np.asarray(np.isnan(vectors).any(1))
    everybody = pairwise(vectors[~failed])
    threshold = args.threshold if args.threshold is not None else metrics.threshold_at(everybody, args.far)
    groups = {
        str(label): describe(pairwise(vectors[(labels == label) & ~failed]), threshold)
        | {"images": int((labels == label).sum()), "failed_to_detect": int(failed[labels == label].sum())}
        for label in np.unique(labels)
    }
    rates = [group["fmr"] for group in groups.values() if group["comparisons"]]
    return {
        "threshold": threshold,
        "over_all": describe(everybody, threshold) | {"images": len(paths), "failed_to_detect": int(failed.sum())},
        "groups": groups,
        "worst_fmr": max(rates, default=0.0),
        "worst_to_over_all": max(rates, default=0.0) / max(metrics.match_rate(everybody, threshold), 1e-12),
        "cpu_milliseconds": recogniser.times.summary(),
        "models": recogniser.names,
        "note": "labels come from file names; comparisons are between different people of one group",
    }


def pairwise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores of all pairs of different rows."""
    rows, columns = np.triu_indices(len(vectors), 1)
    scores = vectors @ vectors.T
    return scores[rows, columns]


def describe(scores: NDArray[np.float32], threshold: float) -> dict[str, Any]:
    """Summarise one distribution of non-mated scores."""
    if not scores.size:
        return {"comparisons": 0, "fmr": 0.0}
    spread = metrics.quantiles(scores, SHARES)
    return {
        "comparisons": len(scores),
        "fmr": metrics.match_rate(scores, threshold),
        "mean": float(scores.mean()),
        "deviation": float(scores.std()),
        **{f"p{share * 100:g}": value for share, value in zip(SHARES, spread, strict=True)},
    }
