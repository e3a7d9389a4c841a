# SPDX-License-Identifier: Apache-2.0
"""Take off what neighbours have in common: an int8 embedder gets a last step that evens out crowded regions.

tools/train centre OUT.tflite --shards FAIRFACE --photos LFW_TRAIN   (of the listed embedder; then tools/manifest add)

Embeddings crowd where training or teacher saw few people, so strangers of some groups come out more alike than others.
From a unit vector u the step takes b * sum(w[k] * c[k]), where c are K means of the embeddings of people it learned
from and w = softmax(g * (c @ u)): the mean of the region that u lies in. It is the idea of Conneau et al. (Word
translation without parallel data, 2018: similarity relative to a neighbourhood) as a function of the vector alone, so
that it lies in the file and nothing else has to know. A region counts by its people, each by one picture, and only
where they are enough that nobody can be told from their mean.

The file keeps its int8 network and ends in float32: the last step costs 65 000 multiplications.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from agent.errors import RefusedError
from agent.inference.manifest import load_manifest
from tools.lib.evaluate import fairness, pictures, shards
from tools.lib.evaluate.recogniser import Recogniser, add_model_arguments
from tools.lib.train.last_step import Matrix, centred

MEANS = 256  # regions; with 128 and 512 the groups are as even
FEWEST = 10  # people in a region: the mean of fewer is not kept
ONE_PERSON = 0.5  # photos from this cosine on count as one person's; hardly a stranger is as near (models/policy.json)
ROUNDS, SHIFT = 60, 1e-5  # of k-means
SEED = 1


def vectors(manifest: Path, name: str, faces: Path, last: int, photos: Sequence[Path]) -> Matrix:
    """Embeddings (n, 128) that a unit makes of the people the embedder learned from, one of each.

    These are in the shards of ``faces`` but the ``last``, which have one picture of each, and in ``photos``, which may
    have several. RefusedError when they are too few.
    """
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    recogniser = Recogniser(parser.parse_args(["--models", str(manifest), "--embedder-name", name]))
    paths = sorted(faces.glob("faces-*.npz"))
    labelled = ((face.group, Image.fromarray(face.rgb)) for face in shards.faces(paths[: len(paths) - last]))
    further = (("", pictures.upright(path)) for folder in photos for path in pictures.find(folder, None))
    found = np.concatenate([_found(recogniser, labelled), one_each(_found(recogniser, further))])
    if len(found) < MEANS * FEWEST:
        raise RefusedError(f"{len(found)} people were found: {MEANS} means need {MEANS * FEWEST} or more")
    return found


def _found(recogniser: Recogniser, shown: Iterator[tuple[str, Image.Image]]) -> Matrix:
    rows = fairness.embedded(recogniser, shown, None)[1]
    return rows[~np.isnan(rows).any(1)]


def one_each(vectors: Matrix) -> Matrix:
    """The rows of unit ``vectors`` (n, d) that are no other picture of a person before them."""
    kept = np.zeros(len(vectors), np.bool_)
    for row, vector in enumerate(vectors):
        kept[row] = not (vectors[:row][kept[:row]] @ vector >= ONE_PERSON).any()
    return vectors[kept]


def means_of(people: Matrix, count: int = MEANS) -> Matrix:
    """Unit means (at most ``count``, d) of the regions of ``people`` (n, d), by k-means; the same for the same people.

    Regions of fewer than ``FEWEST`` are left out.
    """
    cv2.setRNGSeed(SEED)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, ROUNDS, SHIFT)
    _, region, means = cv2.kmeans(np.ascontiguousarray(people), count, None, stop, 1, cv2.KMEANS_PP_CENTERS)
    means = means[np.bincount(region[:, 0], minlength=count) >= FEWEST]
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=Path, required=True, help="FairFace")
    parser.add_argument("--last", type=int, default=3, help="so many shards are left out; default: %(default)s")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], metavar="FOLDER", help="of further people")
    add_model_arguments(parser)
    args = parser.parse_args()
    models = load_manifest(args.models)
    content = models.read(models.entry(args.embedder_name))
    found = vectors(args.models, args.embedder_name, args.shards, args.last, args.photos)
    means = means_of(found)
    made = centred(content, means)
    args.out.write_bytes(made)
    closest = float((found @ means.T).max())
    print(f"{args.out}: {len(made)} bytes, {len(means)} means of {len(found)} people, nobody nearer than {closest:.2f}")


if __name__ == "__main__":
    main()
