# SPDX-License-Identifier: Apache-2.0
"""Open-set 1:N identification by a policy's own decisions, over a folder with one folder per person.

Probes are means of ``--probes`` pictures and references means of ``--captures``, as ``calibrate`` makes them, in
galleries of several sizes. A mated search fails when the person's own reference is below the policy's threshold or
leads by too little; a non-mated one, of somebody who is not in the gallery, when any reference passes both. Rates come
with their intervals by bootstrap over people, the upper end never below the rule of three's for so many.

One look is played: a unit that looks twice gives each look half of the target. Pictures in which nobody is found, and
those that the mirror image refuses, are told and left out: in a visit the next frames come.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.detect.detector import Detector
from agent.disk.files import read_bounded
from agent.embed.embedder import Embedder
from agent.errors import RefusedError
from agent.match.policy import MAX_POLICY_BYTES, TARGETS, Policy, parse_policy
from tools.lib.evaluate import decisions, pictures
from tools.lib.evaluate.arguments import some
from tools.lib.evaluate.calibrate import GALLERIES, add_decision_arguments, filling
from tools.lib.evaluate.decisions import People, Vectors
from tools.lib.evaluate.recogniser import DEFAULT_MANIFEST, Recogniser, add_model_arguments

STRANGER_DRAWS = 20  # galleries that each stranger stands before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--policy", type=Path, default=DEFAULT_MANIFEST.with_name("policy.json"), help="unsigned JSON")
    parser.add_argument("--target-fpir", type=float, choices=TARGETS, help="instead of the policy's")
    parser.add_argument("--probes", type=some, default=3, help="pictures a probe; default: %(default)s")
    parser.add_argument("--captures", type=some, default=3, help="pictures a reference; default: %(default)s")
    parser.add_argument("--galleries", type=some, nargs="+", default=list(GALLERIES), metavar="N")
    add_decision_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    policy = parse_policy(read_bounded(args.policy, MAX_POLICY_BYTES))
    if args.target_fpir:
        policy = msgspec.structs.replace(policy, target_fpir=args.target_fpir)
    paths = pictures.find(args.images)
    recogniser = Recogniser(args)
    if not isinstance(recogniser.embedder, Embedder) or recogniser.embedder.model != policy.model:
        raise RefusedError("the policy was measured for another model: name the embedder's own with --policy")
    if isinstance(recogniser.detector, Detector) and recogniser.detector.model not in policy.detectors:
        raise RefusedError("the policy was measured with other detectors: calibrate it again, or name theirs")
    views = recogniser.both_ways(paths, args.vectors)
    limit = policy.probe.mirror if args.refuse > 0 else -1.0
    people = decisions.named([path.parent.name for path in paths], views.admitted(limit), args.leave_out)
    fillers = filling(recogniser, args, limit)
    return {
        "people": len(people.rows),
        "fillers": len(fillers),
        "mated_people": len(people.having(args.probes + args.captures)),
        "non_mated_people": len(people.having(args.probes)),
        "failed_to_detect": int(np.isnan(views.mirror).sum()),
        "refused_by_mirror": int((views.mirror < limit).sum()),
        "target_fpir": policy.target_fpir,
        "galleries": played(policy, people, fillers, args),
        "models": recogniser.names,
        "note": "fnir and fpir with 95 % intervals over people, for one look",
    }


def played(policy: Policy, people: People, fillers: Vectors, args: argparse.Namespace) -> dict[str, Any]:
    """FNIR and FPIR by gallery size; sizes for which there are too few people are left out."""
    most = max(args.galleries)
    mated = decisions.mated(people, fillers, args.probes, args.captures, most, args.seed)
    strangers = non_mated(people, fillers, args.probes, args.captures, most, args.seed)
    if mated is None:
        raise RefusedError(f"nobody has {args.probes + args.captures} pictures: lower --probes or --captures")
    report = {}
    for gallery in sorted(args.galleries):
        if gallery > strangers.shape[2]:
            continue
        threshold = policy.threshold(gallery, args.probes)
        fnir = decisions.interval(mated.missed(gallery, threshold.value, policy.margin), args.seed)
        fpir = decisions.interval(matched(strangers[:, :, :gallery], threshold.value, policy.margin), args.seed)
        report[str(gallery)] = {
            "threshold": round(threshold.value, 4),
            "threshold_is": threshold.state,
            "fnir": [round(value, 5) for value in fnir],
            "fpir": [round(value, 5) for value in fpir],
        }
    return report


def non_mated(
    people: People, fillers: Vectors, probes: int, captures: int, most: int, seed: int
) -> NDArray[np.float32]:
    """Scores of everybody with enough pictures against references of others, (p, draws, g), g at most ``most``."""
    rng = np.random.default_rng([seed, probes, captures, 1])
    searched, everyone = people.having(probes), list(range(len(people.rows)))
    count = min(most, len(everyone) + len(fillers) - 1)
    scores = np.zeros((len(searched), STRANGER_DRAWS, count), np.float32)
    for draw in range(STRANGER_DRAWS):
        references = np.concatenate([people.means(everyone, captures, rng), fillers])
        found = people.means(searched, probes, rng)
        for index, one in enumerate(searched):
            chosen = rng.permutation(np.delete(np.arange(len(references)), one))[:count]
            scores[index, draw] = references[chosen] @ found[index]
    return scores


def matched(scores: NDArray[np.float32], threshold: float, margin: float) -> NDArray[np.float64]:
    """Share of each stranger's searches (p, draws, g) that some reference passes with the lead that is asked for."""
    best = np.partition(scores, -2, axis=2)[:, :, -2:] if scores.shape[2] > 1 else scores
    lead = best[:, :, 1] - best[:, :, 0] if scores.shape[2] > 1 else np.full(scores.shape[:2], np.inf)
    passed: NDArray[np.float64] = ((best[:, :, -1] >= threshold) & (lead >= margin)).mean(1)
    return passed
