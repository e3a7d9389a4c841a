# SPDX-License-Identifier: Apache-2.0
"""Pictures that are kept as npz shards of JPEG files end to end: labelled faces, and natural photos without a face.

A shard has ``jpeg`` (uint8, all files), ``start`` (n + 1 offsets) and one row a picture of whatever else is known:
``label``, ``box`` (x0, y0, x1, y1) and ``landmarks`` (five x, y, NaN where the teacher found nobody), or ``kind``.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CARVED = "statue"  # negatives with faces of stone: neither faces nor none


class LabelledFace(NamedTuple):
    """One picture with the face it was made for."""

    name: str
    rgb: NDArray[np.uint8]
    group: str
    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]


def faces(paths: Sequence[Path]) -> Iterator[LabelledFace]:
    """Yield the pictures of shards of faces; ``group`` serves balance and measuring, and is learnt by nothing."""
    for path in paths:
        with np.load(path) as shard:
            rows = {key: shard[key] for key in ("jpeg", "start", "label", "box", "landmarks")}
        for k in range(len(rows["start"]) - 1):
            yield LabelledFace(
                f"{path.stem}/{k}",
                decode(rows["jpeg"], rows["start"], k),
                rows["label"][k].decode(),
                rows["box"][k].astype(np.float32),
                rows["landmarks"][k].astype(np.float32).reshape(5, 2),
            )


def empty(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield name and RGB of each natural photo without a face."""
    for path in sorted(folder.glob("negatives-*.npz")):
        with np.load(path) as shard:
            rows = {key: shard[key] for key in ("jpeg", "start", "source", "kind")}
        for k in range(len(rows["start"]) - 1):
            if rows["kind"][k].decode() != CARVED:
                yield rows["source"][k].decode(), decode(rows["jpeg"], rows["start"], k)


def decode(files: NDArray[np.uint8], start: NDArray[np.integer], k: int) -> NDArray[np.uint8]:
    """Return picture ``k`` as RGB."""
    with Image.open(io.BytesIO(files[start[k] : start[k + 1]].tobytes())) as picture:
        return np.asarray(picture.convert("RGB"))
