# SPDX-License-Identifier: Apache-2.0
"""Open-set 1:N identification over a folder with one folder per person.

Some people are enrolled with up to three pictures (the mean, as the gallery does); all their other pictures and all
pictures of the other people are searched. A mated search fails when nobody is found, or another subject.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.lib.evaluate import metrics, pictures
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments

FPIRS = (1e-2, 1e-3)
MAX_CAPTURES = 3  # pictures that enrol a person; at least one stays to be searched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--enrol", type=int, required=True, metavar="N", help="people to enrol")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of people and pictures")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    paths = pictures.find(args.images)
    people: dict[str, list[int]] = {}
    for index, path in enumerate(paths):
        people.setdefault(path.parent.name, []).append(index)
    rng = np.random.default_rng(args.seed)
    repeated = [name for name, rows in people.items() if len(rows) > 1]
    if args.enrol < 1 or args.enrol > len(repeated):
        raise SystemExit(f"tools/evaluate: --enrol must be 1 to {len(repeated)}: so many people have two pictures")
    enrolled = rng.choice(sorted(repeated), args.enrol, replace=False).tolist()

    recogniser = Recogniser(args)
    vectors = recogniser.embeddings(paths)
    owners = np.full(len(paths), -1)
    gallery: list[NDArray[np.floating]] = []
    used: list[int] = []
    for name in enrolled:
        rows = rng.permutation(people[name])
        captures = rows[: min(MAX_CAPTURES, len(rows) - 1)]
        used.extend(captures.tolist())
        mean = np.nan_to_num(vectors[captures]).sum(0)
        norm = float(np.linalg.norm(mean))
        owners[rows] = len(gallery)
        gallery.append(mean / norm if norm > 0 else mean)  # a zero row matches nobody: a failure to enrol
    references = np.array(gallery)
    searched = np.setdiff1d(np.arange(len(paths)), used)
    found = metrics.search(vectors[searched], owners[searched], references)
    at = {f"{fpir:g}": metrics.fnir_at_fpir(found, fpir) for fpir in FPIRS}
    return {
        "enrolled": len(references),
        "failed_to_enrol": int((~references.any(1)).sum()),
        "mated_searches": len(found.mated),
        "non_mated_searches": len(found.non_mated),
        "failed_to_detect": int(np.isnan(vectors[searched]).any(1).sum()),
        "rank_1_miss_rate": float(1 - found.correct.mean()),
        "fnir_at_fpir": {fpir: fnir for fpir, (fnir, _) in at.items()},
        "threshold_at_fpir": {fpir: threshold for fpir, (_, threshold) in at.items()},
        "cpu_milliseconds": recogniser.times.summary(),
        "models": recogniser.names,
        "note": "failures to detect count as misses of mated searches",
    }
