# SPDX-License-Identifier: Apache-2.0
"""Measure the impostor scores of the whole pipeline and write the matching policy that follows from them.

Every picture of one person is compared with every picture of all others. The policy is signed with ``--site-key``;
without, the site signs it later (``postern site policy``), and until then no unit takes it. Pairs that share a person
are not independent, so the far end of the tail is optimistic; it is cut at ``--smallest-fmr`` and at what the number of
pairs supports.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.embed.embedder import Embedder
from agent.errors import RefusedError
from agent.files import read_secret
from agent.keys import SigningKey
from agent.match.policy import RULE_OF_THREE, Policy, TailPoint, Votes, sign_policy
from tools.lib.evaluate import pictures
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments

POINTS_PER_DECADE = 4  # between them the threshold is close to linear in log FMR
LARGEST_FMR = 0.1
BINS = 20_000  # of scores from -1 to 1: thresholds to 0.0001
BLOCK = 512  # rows compared at a time: 512 x 50 000 scores are 100 MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--out", type=Path, required=True, metavar="POLICY.json", help="where to write the policy")
    parser.add_argument("--target-fpir", type=float, default=0.001, help="default: %(default)s")
    parser.add_argument("--smallest-fmr", type=float, default=1e-5, help="cut the tail here; default: %(default)s")
    parser.add_argument("--margin", type=float, default=0.05, help="lead over the second best; default: %(default)s")
    parser.add_argument("--votes", default="3/5/1500", help="needed/of/within milliseconds; default: %(default)s")
    parser.add_argument("--site-key", type=Path, metavar="FILE", help="sign it: site.key of the site's folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file (mode 0600) with its passphrase")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    recogniser = Recogniser(args)
    embedder = recogniser.embedder
    if not isinstance(embedder, Embedder):
        raise RefusedError("a policy is for the model that the unit runs: leave --embedder out")
    paths = pictures.find(args.images)
    vectors = recogniser.embeddings(paths)
    found = ~np.isnan(vectors).any(1)
    names = np.array([path.parent.name for path in paths])[found]
    histogram = impostor_histogram(vectors[found], np.unique(names, return_inverse=True)[1])
    needed, of, within_ms = (int(part) for part in args.votes.split("/"))
    policy = Policy(
        version=1,
        model=embedder.model,
        target_fpir=args.target_fpir,
        impostor_pairs=int(histogram.sum()),
        impostor_tail=tail(histogram, args.smallest_fmr),
        margin=args.margin,
        votes=Votes(needed=needed, of=of, within_ms=within_ms),
    )
    args.out.write_bytes(written(policy, args.site_key, args.passphrase_file) + b"\n")
    print(f"written: {args.out}", file=sys.stderr)
    return {
        "pictures": len(paths),
        "failed_to_detect": int((~found).sum()),
        "people": len(set(names)),
        "impostor_pairs": policy.impostor_pairs,
        "fmr_to_threshold": {f"{p.fmr:.3g}": p.threshold for p in policy.impostor_tail},
        "threshold_for_gallery": {str(n): policy.threshold(n).value for n in (1, 10, 100, 1000)},
        "measured_for_gallery": {str(n): policy.threshold(n).measured for n in (1, 10, 100, 1000)},
        "models": recogniser.names,
    }


def written(policy: Policy, site_key: Path | None, passphrase_file: Path | None) -> bytes:
    """Signed by the site's key where that is given, else plain JSON; KeyStoreError when the key does not open."""
    if site_key is None:
        return policy.canonical()
    passphrase = read_secret(passphrase_file).strip() if passphrase_file else None
    return sign_policy(policy, SigningKey.load(site_key, passphrase)).encode()


def impostor_histogram(vectors: NDArray[np.float32], people: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the scores of all pairs of different people: (BINS,), from -1 to 1."""
    counts = np.zeros(BINS, np.int64)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        scores = vectors[rows] @ vectors[start:].T
        other = people[rows, None] != people[None, start:]
        later = np.arange(scores.shape[0])[:, None] < np.arange(scores.shape[1])[None, :]
        counts += np.histogram(scores[other & later], BINS, (-1.0, 1.0))[0]
    return counts


def tail(histogram: NDArray[np.int64], smallest_fmr: float) -> tuple[TailPoint, ...]:
    """Read thresholds off at FMRs from ``LARGEST_FMR`` down; each states the share that really reached it."""
    pairs = int(histogram.sum())
    if pairs * LARGEST_FMR < 2 * RULE_OF_THREE:
        raise RefusedError("too few pictures of different people: at least some hundred pairs are needed")
    reached = histogram[::-1].cumsum()[::-1] / pairs  # share of scores at or above each bin's lower edge
    smallest = max(smallest_fmr, RULE_OF_THREE / pairs)
    steps = int(np.floor(np.log10(LARGEST_FMR / smallest) * POINTS_PER_DECADE + 1e-9))
    points: list[TailPoint] = []
    for wanted in LARGEST_FMR * 10 ** (-np.arange(steps + 1) / POINTS_PER_DECADE):
        index = int(np.argmax(reached <= wanted))
        fmr = max(float(reached[index]), smallest)
        point = TailPoint(fmr=float(f"{fmr:.6g}"), threshold=round(2 * index / BINS - 1, 4))
        if not points or (points[-1].fmr > point.fmr and points[-1].threshold < point.threshold):
            points.append(point)
    return tuple(points)
