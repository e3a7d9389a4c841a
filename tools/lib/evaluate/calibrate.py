# SPDX-License-Identifier: Apache-2.0
"""Measure decisions of the whole pipeline and write the matching policy that follows from them.

A decision compares the mean of k pictures of one person, as the crops of a visit, with the mean of m pictures, as a
reference. For each (k, m) the policy gets the tail of impostor scores and the misses in galleries of several sizes:

- Pictures whose mirror image agrees least (``--refuse``, a tenth) are refused as the unit refuses such crops; the limit
  goes into the policy, as does the cosine below which a crop is of another face (FMR 1e-2 of single pictures).
- Impostor decisions take people who have k, or m, pictures left; nobody's picture stands in for another one's.
- Where the pairs of people no longer support a rate (rule of three) the tail is extrapolated by an exponential above
  the level with FMR 3e-3 (see ``agent.match.tail``). Intervals are of a bootstrap over people.
- Misses are of people with k + m pictures, each divided into both anew; galleries are filled with all the other people
  and, one picture each, those of ``--fill``.

Pictures of a person here are of different days; crops of one visit and captures of one session are more alike, so that
averaging brings less there. The policy is signed with ``--site-key``; without, the site signs it later (``postern site
policy``), and until then no unit takes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agent.disk.files import read_secret
from agent.embed.embedder import Embedder
from agent.errors import RefusedError
from agent.inference.manifest import load_manifest
from agent.keys import SigningKey
from agent.match.policy import CROPS, MILLION, TARGETS, Decision, Misses, Policy, Probing, sign_policy
from tools.lib.evaluate import decisions, pictures
from tools.lib.evaluate.arguments import to_write
from tools.lib.evaluate.decisions import People
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments
from tools.lib.manifest import detector_digests

KINDS = ((1, 1), (1, 3), (3, 1), (3, 3), (5, 3))  # probes and captures; what else could be measured nobody asks for
GALLERIES = (1, 10, 100, 500, 1000)
CAPTURES = 3  # the fewest captures of a reference: MIN_CAPTURES of the gallery
OTHER_FACE_FMR = 1e-2  # a crop that agrees with the mean less than this is of another face: misses a swap in a hundred
RATES = (1e-2, 1e-3, 1e-4)  # FMRs that the report tells FNMR at


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--out", type=to_write, required=True, metavar="POLICY.json", help="where to write the policy")
    parser.add_argument("--target-fpir", type=float, default=0.001, choices=TARGETS, help="default: %(default)s")
    parser.add_argument("--margin", type=float, default=0.05, help="lead over the second best; default: %(default)s")
    parser.add_argument("--probe", default="3/5/200", help="first/most/milliseconds between; default: %(default)s")
    add_decision_arguments(parser)
    parser.add_argument("--site-key", type=Path, metavar="FILE", help="sign it: site.key of the site's folder")
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="file (mode 0600) with its passphrase")
    add_model_arguments(parser)


def add_decision_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fill", type=Path, metavar="DIR", help="pictures of further people, one each, for galleries")
    parser.add_argument("--seed", type=int, default=0, help="of every choice of pictures and people")
    parser.add_argument("--fill-vectors", type=to_write, metavar="FILE.npz", help="and those of --fill here")
    decisions.add_people_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    recogniser = Recogniser(args)
    embedder = recogniser.embedder
    if not isinstance(embedder, Embedder):
        raise RefusedError("a policy is for the model that the unit runs: leave --embedder out")
    paths = pictures.find(args.images)
    recogniser = Recogniser(args)
    views = recogniser.both_ways(paths, args.vectors)
    found = views.mirror[~np.isnan(views.mirror)]
    if not len(found):
        raise RefusedError("in none of the pictures a face was found")
    limit = round(float(np.quantile(found, args.refuse)), 4) if args.refuse > 0 else -1.0
    people = decisions.named([path.parent.name for path in paths], views.admitted(limit), args.leave_out)
    fillers = filling(recogniser, args, limit)
    first, most, spacing_ms = (int(part) for part in args.probe.split("/"))
    policy = measure(
        people,
        fillers,
        model=embedder.model,
        detectors=detector_digests(load_manifest(args.models)),
        target=args.target_fpir,
        margin=args.margin,
        probe=Probing(first=first, most=most, spacing_ms=spacing_ms, mirror=limit, agreement=0.0),
        seed=args.seed,
    )
    args.out.write_bytes(written(policy, args.site_key, args.passphrase_file) + b"\n")
    return {
        "written": str(args.out),
        "pictures": len(paths),
        "failed_to_detect": len(paths) - len(found),
        "refused_by_mirror": int((found < limit).sum()),
        "mirror_limit": limit,
        "people": len(people.rows),
        "people_with_pictures": {str(n): len(people.having(n)) for n in range(1, 9)},
        "fillers": len(fillers),
        "decisions": {f"{one.probes}/{one.captures}": told(one, people, args.seed) for one in policy.decisions},
        "threshold_for_gallery": {str(n): policy.threshold(n, first).value for n in GALLERIES},
        "threshold_is": {str(n): policy.threshold(n, first).state for n in GALLERIES},
        "measured_references": policy.measured_references,
        "covered_references": policy.covered_references,
        "models": recogniser.names,
    }


def filling(recogniser: Recogniser, args: argparse.Namespace, limit: float) -> decisions.Vectors:
    """Vectors of further people, (n, 128)."""
    if args.fill is None:
        return np.zeros((0, 128), np.float32)
    admitted = recogniser.both_ways(pictures.find(args.fill), args.fill_vectors).admitted(limit)
    return admitted[~np.isnan(admitted).any(1)]


def measure(
    people: People,
    fillers: decisions.Vectors,
    *,
    model: str,
    detectors: tuple[str, ...],
    target: float,
    margin: float,
    probe: Probing,
    seed: int,
) -> Policy:
    """The policy for these people's pictures; RefusedError when they are too few."""
    made = []
    for probes, captures in KINDS:
        if min(len(people.having(probes)), len(people.having(captures))) < 2:
            continue
        try:
            table = decisions.tail(decisions.impostors(people, probes, captures, seed), seed)
        except ValueError:
            continue
        made.append(Decision(probes=probes, captures=captures, impostors=table, people=0, misses=()))
    if not {(1, 1), (probe.first, CAPTURES)} <= {(one.probes, one.captures) for one in made}:
        raise RefusedError(
            f"too few pictures of different people: at least {2 * CAPTURES} pictures of some dozens are needed"
        )
    policy = Policy(
        version=4,
        crops=CROPS,
        model=model,
        detectors=detectors,
        target_fpir=target,
        margin=margin,
        probe=probe,
        captures=CAPTURES,
        decisions=tuple(made),
    )
    return msgspec.structs.replace(
        policy,
        probe=msgspec.structs.replace(probe, agreement=policy.single.threshold(OTHER_FACE_FMR).value),
        decisions=tuple(with_misses(one, policy, people, fillers, seed) for one in made),
    )


def with_misses(one: Decision, policy: Policy, people: People, fillers: decisions.Vectors, seed: int) -> Decision:
    """``one`` with what it misses at each target in each gallery that there are people for."""
    found = decisions.mated(people, fillers, one.probes, one.captures, max(GALLERIES), seed)
    if found is None:
        return one
    misses = []
    for target in TARGETS:
        for gallery in (n for n in GALLERIES if n <= found.others.shape[2] + 1):
            threshold = one.impostors.threshold(target / policy.probe.looks / gallery).value
            rate = decisions.interval(found.missed(gallery, threshold, policy.margin), seed)
            fnir, low, high = (round(value * MILLION) for value in rate)
            misses.append(Misses(target=target, gallery=gallery, fnir_ppm=fnir, low_ppm=low, high_ppm=high))
    return msgspec.structs.replace(one, people=len(found.own), misses=tuple(misses))


def told(one: Decision, people: People, seed: int) -> dict[str, Any]:
    """A decision for the report."""
    table = one.impostors
    found = decisions.mated(people, np.zeros((0, 128), np.float32), one.probes, one.captures, 1, seed)
    thresholds = {f"{rate:g}": table.threshold(rate) for rate in RATES}
    return {
        "impostor_people": table.people,
        "pairs_of_people": table.pairs,
        "measured_to_fmr": table.measured_to,
        "threshold_at_fmr": {rate: at.value for rate, at in thresholds.items()},
        "mated_people": one.people,
        "fnmr_at_fmr": {} if found is None else {rate: below(found, at.value) for rate, at in thresholds.items()},
        "fnir": {
            f"{each.target:g} in {each.gallery}": [
                ppm / MILLION for ppm in (each.fnir_ppm, each.low_ppm, each.high_ppm)
            ]
            for each in one.misses
        },
    }


def below(found: decisions.Mated, threshold: float) -> Sequence[float]:
    """FNMR and its interval over people."""
    return [round(value, 4) for value in decisions.interval(found.missed(1, threshold, -2.0))]


def written(policy: Policy, site_key: Path | None, passphrase_file: Path | None) -> bytes:
    """Signed by the site's key where that is given, else plain JSON; KeyStoreError when the key does not open."""
    if site_key is None:
        return policy.canonical()
    passphrase = read_secret(passphrase_file).strip() if passphrase_file else None
    return sign_policy(policy, SigningKey.load(site_key, passphrase)).encode()
