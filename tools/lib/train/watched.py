# SPDX-License-Identifier: Apache-2.0
"""Photos that a training of the embedder is told about and never learns from: aligned, with the teacher's answers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from tools.lib.train import align_faces
from tools.lib.train.teacher import DetectionTeacher, EmbeddingTeacher

MOST = 1024  # photos of a set: the mean of so many cosines is sure to 0.003
EDGE = int(align_faces.MARGIN * align_faces.SCALE)  # pixels that an aligned face is kept with beyond the template


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dev", type=Path, help="photos by person that no training uses: tell the cosine there too")
    parser.add_argument("--shards", type=Path, help="FairFace, of which the last three shards are not trained on: too")
    parser.add_argument("--last", type=int, default=3, help="so many of them; default: %(default)s")
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))


def sets(args: argparse.Namespace) -> dict[str, dict[str, np.ndarray]]:
    """Images and the teacher's embeddings by name; made once for a run and kept in its folder."""
    found = {}
    if args.dev:
        found["dev"] = kept(args.run / "watched-dev.npz", args.teachers, lambda: photos(args.dev, args.teachers))
    if args.shards:
        paths = sorted(args.shards.glob("faces-*.npz"))[-args.last :]
        found["fairface"] = kept(
            args.run / "watched-fairface.npz", args.teachers, lambda: (crop for crop, _ in align_faces.shards(paths))
        )
    return found


def photos(folder: Path, teachers: Path) -> Iterator[np.ndarray]:
    """Aligned faces of an evenly spread sample of the people, one photo each."""
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    teacher = DetectionTeacher(teachers)
    for person in people[:: max(1, len(people) // MOST)]:
        yield from (crop for crop, _ in islice(align_faces.photos(person, teacher), 1))


def kept(path: Path, teachers: Path, make: Callable[[], Iterable[np.ndarray]]) -> dict[str, np.ndarray]:
    """What ``path`` holds; made of the aligned faces that ``make`` yields where it is not there."""
    if not path.exists():
        images = np.stack([plain(crop) for crop in islice(make(), MOST)])
        teacher = EmbeddingTeacher(teachers)
        embedding = np.concatenate([teacher(images[k : k + 64]).embedding for k in range(0, len(images), 64)])
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, image=images, embedding=embedding)
        temporary.replace(path)
    with np.load(path) as held:
        return {name: held[name] for name in ("image", "embedding")}


def plain(aligned: np.ndarray) -> np.ndarray:
    """The template's 112x112 part of an aligned face, uint8 RGB."""
    inner = aligned[EDGE:-EDGE, EDGE:-EDGE]
    return cv2.resize(inner, (112, 112), interpolation=cv2.INTER_AREA)
