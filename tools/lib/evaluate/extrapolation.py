# SPDX-License-Identifier: Apache-2.0
"""Whether the tail that ``calibrate`` writes holds for people whom it did not see, where it is extrapolated too.

Again and again (``--splits``) people are divided: ``--fit`` of them yield a tail by the method of ``calibrate``, and
all the others, who are in it neither as probe nor as reference, are compared with each other at its thresholds. Of a
tail that holds, as many of them match as were asked for; of a bold one, more. A tail of few people has to be
extrapolated early, so that what it says can be counted on the many others.

``fpir`` is the decision's: everybody of the others with enough pictures stands before a gallery of all the rest of
them, disjoint from split to split as the people are, at the threshold for its size.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import RefusedError
from agent.match.policy import TARGETS
from tools.lib.evaluate import decisions, pictures
from tools.lib.evaluate.arguments import some
from tools.lib.evaluate.decisions import People
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments

RATES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # FMRs asked for
DRAWS = 4  # of everybody's pictures in each split
SHOWN = (0.05, 0.5, 0.95)  # quantiles over the splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--probes", type=some, default=1, help="pictures a probe; default: %(default)s")
    parser.add_argument("--captures", type=some, default=1, help="pictures a reference; default: %(default)s")
    parser.add_argument("--fit", type=some, default=130, metavar="N", help="people who yield the tail; default: 130")
    parser.add_argument("--splits", type=some, default=30, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of every choice of pictures and people")
    decisions.add_people_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    recogniser = Recogniser(args)
    paths = pictures.find(args.images)
    views = recogniser.both_ways(paths, args.vectors)
    limit = float(np.nanquantile(views.mirror, args.refuse)) if args.refuse > 0 else -1.0
    people = decisions.named([path.parent.name for path in paths], views.admitted(limit), args.leave_out)
    fitting = people.having(max(args.probes, args.captures))
    if args.fit > len(fitting) - 2:
        raise RefusedError(f"{len(fitting)} people have enough pictures: lower --fit")
    found = [split(people, fitting, args, number) for number in range(args.splits)]
    got, passed, galleries = (np.array(part) for part in zip(*found, strict=True))
    return {
        "people": len(people.rows),
        "with_enough_pictures": len(fitting),
        "fmr": {f"asked {rate:g}": spread(got[:, k], rate) for k, rate in enumerate(RATES)},
        "galleries": [int(galleries.min()), int(galleries.max())],
        "fpir": {f"asked {rate:g}": spread(passed[:, k], rate) for k, rate in enumerate(TARGETS)},
        "models": recogniser.names,
        "note": "got: mean over the splits, and quantiles of what was got to what was asked for",
    }


def split(
    people: People, fitting: list[int], args: argparse.Namespace, number: int
) -> tuple[list[float], list[float], int]:
    """FMR at each of ``RATES`` and FPIR at each of ``TARGETS`` of the people who did not yield the tail."""
    rng = np.random.default_rng([args.seed, number])
    fitted = sorted(rng.permutation(fitting)[: args.fit].tolist())
    others = People(people.vectors, [rows for one, rows in enumerate(people.rows) if one not in set(fitted)])
    sample = People(people.vectors, [people.rows[one] for one in fitted])
    tail = decisions.tail(decisions.impostors(sample, args.probes, args.captures, number), number, resampled=1)
    probed, enrolled = others.having(args.probes), others.having(args.captures)
    strangers = np.asarray(probed)[:, None] != np.asarray(enrolled)[None]
    gallery = len(enrolled) - 1
    at = [tail.threshold(rate).value for rate in RATES]
    within = [tail.threshold(target / gallery).value for target in TARGETS]
    reached, passed = np.zeros(len(RATES)), np.zeros(len(TARGETS))
    for _ in range(DRAWS):
        scores = others.means(probed, args.probes, rng) @ others.means(enrolled, args.captures, rng).T
        scores = np.where(strangers, scores, -1.0)
        reached += [int((scores >= value).sum()) for value in at]
        passed += [int((scores.max(1) >= value).sum()) for value in within]
    fmr = reached / (DRAWS * strangers.sum())
    return fmr.tolist(), (passed / (DRAWS * len(probed))).tolist(), gallery


def spread(values: NDArray[np.float64], asked: float) -> dict[str, float]:
    quantiles = {
        f"p{share * 100:g}": float(value) / asked
        for share, value in zip(SHOWN, np.quantile(values, SHOWN), strict=True)
    }
    return {"got": float(values.mean()), "ratio": float(values.mean()) / asked, **quantiles}
