# SPDX-License-Identifier: Apache-2.0
"""Unlinkability and inversion of protected templates, on the embeddings of real pictures.

Everybody is enrolled at two sites, from different pictures where there are two or more, else from the same one. Each of
``--sites`` pairs of sites has new keys. Linkage: D_sys between the sites' templates against chance. Alignment: who is
found again by somebody who knows some people at both sites. Inversion: what the template gives away with its key.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import RefusedError
from agent.gallery.template import rotate, unrotate
from agent.match.policy import MAX_POLICY_BYTES, Policy, parse_policy
from agent.protocol.subject import SubjectId
from tools.lib.evaluate import pictures
from tools.lib.evaluate.arguments import some
from tools.lib.evaluate.linkage import (
    LINKAGE,
    Rows,
    linked,
    protect,
    protect_by_site,
    relinked_by_chance,
    relinked_by_profile,
    relinked_by_rotation,
    scores,
)
from tools.lib.evaluate.recogniser import DEFAULT_MANIFEST, Recogniser, add_model_arguments

KNOWN = (5, 10, 20, 50, 100)
MIN_PEOPLE = 12  # fewer make no histogram


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, required=True, help="one folder per person")
    parser.add_argument("--sites", type=some, default=10, metavar="N", help="pairs of sites; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the sites' keys")
    parser.add_argument(
        "--policy", type=Path, default=DEFAULT_MANIFEST.with_name("policy.json"), help="says when a probe is accepted"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    policy = parse_policy(args.policy.read_bytes()[: MAX_POLICY_BYTES + 1])
    recogniser = Recogniser(args)
    here, there, apart = two_sites(args.images, recogniser)
    report = measure(here, there, policy, np.random.default_rng(args.seed), sites=args.sites)
    return {"people": len(here), "of_them_with_different_pictures": apart, **report, "models": recogniser.names}


def two_sites(images: Path, recogniser: Recogniser) -> tuple[Rows, Rows, int]:
    """References of everybody at two sites, (n, 128) each, and how many of them come from different pictures."""
    paths = pictures.find(images)
    vectors = recogniser.embeddings(paths)
    people: dict[Path, list[Any]] = {}
    for path, vector in zip(paths, vectors, strict=True):
        if not np.isnan(vector).any():
            people.setdefault(path.parent, []).append(vector)
    here, there = [], []
    for captures in people.values():
        half = (len(captures) + 1) // 2
        here.append(_mean(captures[:half]))
        there.append(_mean(captures[half:] or captures))
    if len(here) < MIN_PEOPLE:
        raise RefusedError(f"{len(here)} people were found: give pictures of {MIN_PEOPLE} at least, a folder each")
    return np.stack(here), np.stack(there), sum(len(captures) > 1 for captures in people.values())


def measure(here: Rows, there: Rows, policy: Policy, rng: np.random.Generator, *, sites: int) -> dict[str, Any]:
    """Attack ``sites`` pairs of galleries that hold the same people in the same order."""
    pairs = [(protect(here, rng), protect(there, rng)) for _ in range(sites)]
    return {
        "linkage_without_keys": _linkage(pairs, rng),
        "alignment": _alignment(pairs, (protect_by_site(here, rng), protect_by_site(there, rng))),
        "inversion": _inversion(here, there, policy, rng),
    }


def _linkage(pairs: list[tuple[Rows, Rows]], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    report = {}
    for name, score in LINKAGE.items():
        mated, non_mated = zip(*(scores(one, other, score) for one, other in pairs), strict=True)
        found = linked(np.concatenate(mated), np.concatenate(non_mated), rng)
        report[name] = {
            "d_sys": found.d_sys,
            "chance_95": found.chance,
            "beyond_chance": found.beyond_chance,
            "mated": sum(map(len, mated)),
        }
    return report


def _alignment(pairs: list[tuple[Rows, Rows]], by_site: tuple[Rows, Rows]) -> dict[str, dict[str, float]]:
    people = len(by_site[0])
    return {
        f"{known} known": {
            "by_profile": float(np.mean([relinked_by_profile(*pair, known) for pair in pairs])),
            "by_rotation": float(np.mean([relinked_by_rotation(*pair, known) for pair in pairs])),
            "chance_99.9": relinked_by_chance(people, known, len(pairs)),
            "two_in_n": 2 / people,
            "if_one_rotation_per_site": max(
                relinked_by_profile(*by_site, known), relinked_by_rotation(*by_site, known)
            ),
        }
        for known in KNOWN
        if known <= people // 2
    }


def _inversion(here: Rows, there: Rows, policy: Policy, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Turn templates back with the right key, and with a guessed one; try them with the other site's captures."""
    people = len(here)
    threshold = policy.threshold(people, policy.probe.first).value
    secret, subjects = rng.bytes(32), [SubjectId(rng.bytes(16)) for _ in range(people)]
    stolen = np.stack([rotate(row, secret, subject) for row, subject in zip(here, subjects, strict=True)])
    report = {}
    for name, key in (("with its key", secret), ("with a guessed key", rng.bytes(32))):
        turned = stolen.copy()
        unrotate(turned, key, subjects)
        likeness, accepted = (turned * here).sum(1), (turned * there).sum(1) >= threshold
        report[name] = {
            "mean_cosine": float(likeness.mean()),
            "largest_cosine": float(likeness.max()),
            "accepted": float(accepted.mean()),
        }
    report["unprotected"] = {
        "mean_cosine": 1.0,
        "largest_cosine": 1.0,
        "accepted": float(((here * there).sum(1) >= threshold).mean()),
    }
    return report


def _mean(captures: list[Any]) -> Any:  # noqa: ANN401 - (128,) float32
    mean = np.mean(captures, axis=0)
    return (mean / np.linalg.norm(mean)).astype(np.float32)
