# SPDX-License-Identifier: Apache-2.0
"""False matches between different people of the same group, per group.

The groups are the labels that a test set carries, in its file names (``label_label_number.jpg``) or its shards. They
exist in this measurement alone: no model predicts them, and the product has no place to hold them. Every picture should
show another person, so that every comparison is non-mated; comparisons within a group are the hard ones, which one
figure over all pictures hides.

The worst group is compared with the geometric mean of all, with an interval by bootstrap over people; a group without
a false match counts as if it had half of one. Shards are labelled by race and gender: groups by race are told as well,
once over all pairs and once over those of one gender: a race of which the set holds men alone has no easy pairs.

Sets of pictures from the web show some people twice, which nobody labelled: ``--judge`` leaves out the pairs that this
peer takes for one person (cosine from 0.6).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.embed.records import EMBEDDING_DIM
from agent.errors import RefusedError
from tools.lib.evaluate import metrics, pictures, shards
from tools.lib.evaluate.arguments import existing_file, some
from tools.lib.evaluate.peers import Embeds, OnnxEmbedder
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments, progress, subject

SHARES = (0.5, 0.99, 0.999)  # quantiles of the non-mated scores that the table shows
ONE_PERSON = 0.6  # MobileFaceNet: no pair of different people of LFW reaches it but one, who is the same person
RESAMPLED = 300  # bootstrap samples: the ends of a 95 % interval are then the 7th from either side

Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="pictures label_label_number.jpg, one per person")
    source.add_argument("--shards", type=Path, help="labelled pictures in faces-*.npz, one per person")
    parser.add_argument("--last", type=some, help="only the last so many of these shards")
    parser.add_argument("--limit", type=some, help="an evenly spread sample of so many pictures of --images")
    parser.add_argument("--judge", type=existing_file, metavar="PEER.onnx", help="leaves out pairs of one person")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--threshold", type=float, help="the working threshold")
    point.add_argument(
        "--far", type=float, default=1e-3, help="the threshold of this FMR over all; default: %(default)s"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    recogniser = Recogniser(args)
    judge = OnnxEmbedder(args.judge) if args.judge else None
    labels, vectors, judged = embedded(recogniser, labelled(args), judge)
    found = ~np.isnan(vectors).any(1)
    names, failed = np.unique(labels, return_counts=True)[0], labels[~found]
    labels, vectors = labels[found], vectors[found]
    pairs = np.triu(np.ones((len(labels), len(labels)), np.bool_), 1)
    if judged is not None:
        pairs &= judged[found] @ judged[found].T < ONE_PERSON
    scores = np.asarray(vectors @ vectors.T, np.float32)
    if not pairs.any():
        raise RefusedError("there are no two pictures with a face to compare")
    threshold = args.threshold if args.threshold is not None else metrics.threshold_at(scores[pairs], args.far)
    compared = Compared(scores, pairs, metrics.matches(scores, threshold), labels)
    groups = {
        str(name): compared.describe(labels == name) | {"failed_to_detect": int((failed == name).sum())}
        for name in names
    }
    report: dict[str, Any] = {
        "threshold": threshold,
        "over_all": compared.describe(np.ones(len(labels), np.bool_)) | {"failed_to_detect": len(failed)},
        "groups": groups,
        "worst_fmr": max((group["fmr"] for group in groups.values()), default=0.0),
        "worst_to_geometric_mean": {"by label": compared.worst(labels, pairs)},
    }
    if args.shards:
        race, gender = (np.array([name.rpartition("_")[place] for name in labels.tolist()]) for place in (0, 2))
        same = gender[:, None] == gender[None]
        report["races"] = {str(name): compared.describe(race == name) for name in np.unique(race)}
        report["worst_to_geometric_mean"] |= {
            "by race": compared.worst(race, pairs),
            "by race, of one gender": compared.worst(race, pairs & same),
        }
    return report | {
        "pairs_left_out": int(len(labels) * (len(labels) - 1) // 2 - pairs.sum()),
        "cpu_milliseconds": recogniser.times.summary(),
        "models": recogniser.names,
        "note": "labels come from the set; comparisons are between different people of one group",
    }


def labelled(args: argparse.Namespace) -> Iterator[tuple[str, Image.Image]]:
    if args.images:
        for path in progress(pictures.find(args.images, args.limit)):
            yield "_".join(path.stem.split("_")[:-1]) or "unlabelled", pictures.upright(path)
    else:
        paths = sorted(args.shards.glob("faces-*.npz"))[-args.last if args.last else 0 :]
        if not paths:
            raise RefusedError(f"there are no faces-*.npz in {args.shards}")
        yield from ((face.group, Image.fromarray(face.rgb)) for face in shards.faces(list(progress(paths))))


def embedded(
    recogniser: Recogniser, shown: Iterator[tuple[str, Image.Image]], judge: Embeds | None
) -> tuple[NDArray[np.str_], Matrix, Matrix | None]:
    """Labels (n,), vectors (n, 128) and those of the judge; rows of NaN where no face is found."""
    labels, rows = [], []
    for label, picture in shown:
        labels.append(label)
        row = np.full((2, EMBEDDING_DIM), np.nan, np.float32)
        frame, faces = recogniser.look(picture)
        if faces:
            crop = recogniser.crop(frame, subject(frame, faces))
            row[0] = recogniser.embed(crop)
            row[1] = judge.embed(crop).vector if judge else np.nan
        rows.append(row)
    vectors = np.array(rows, np.float32).reshape(-1, 2, EMBEDDING_DIM)
    return np.array(labels), vectors[:, 0], vectors[:, 1] if judge else None


@dataclass(frozen=True, slots=True)
class Compared:
    """Scores (n, n), which of them count (those above the diagonal), which match, and the labels (n,)."""

    scores: Matrix
    pairs: Mask
    matched: Mask
    labels: NDArray[np.str_]

    def describe(self, members: Mask) -> dict[str, Any]:
        """Summarise the comparisons among ``members``."""
        among = np.ix_(members, members)
        scores = self.scores[among][self.pairs[among]]
        images = int(members.sum())
        if not scores.size:
            return {"comparisons": 0, "fmr": 0.0, "images": images}
        return {
            "comparisons": len(scores),
            "fmr": float(self.matched[among][self.pairs[among]].mean()),
            "mean": float(scores.mean()),
            "deviation": float(scores.std()),
            **{f"p{share * 100:g}": v for share, v in zip(SHARES, metrics.quantiles(scores, SHARES), strict=True)},
            "images": images,
        }

    def worst(self, groups: NDArray[np.str_], pairs: Mask) -> dict[str, Any]:
        """The worst group's FMR to the geometric mean of all groups', with its 95 % interval over people."""
        rng = np.random.default_rng(0)
        named = [str(name) for name in np.unique(groups)]
        rates = []
        for name in named:
            among = np.ix_(groups == name, groups == name)
            count = int((groups == name).sum())
            drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLED)
            weights = np.concatenate([np.ones((1, count)), drawn])
            possible = pairs[among].astype(np.float64)
            hits = possible * self.matched[among]
            total = np.maximum(((weights @ possible) * weights).sum(1), 1.0)
            rates.append(np.maximum(((weights @ hits) * weights).sum(1), 0.5) / total)
        table = np.array(rates)
        ratio = table.max(0) / np.exp(np.log(table).mean(0))
        low, high = np.quantile(ratio[1:], (0.025, 0.975))
        return {
            "worst": named[int(table[:, 0].argmax())],
            "ratio": float(ratio[0]),
            "low": float(min(low, ratio[0])),
            "high": float(max(high, ratio[0])),
        }
