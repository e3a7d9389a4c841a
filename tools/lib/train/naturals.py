# SPDX-License-Identifier: Apache-2.0
"""Portraits for the generators, from natural photos as from drawn ones: picture, head matte, box, landmarks.

tools/train naturals OUT/drawn --photos PORTRAITS
tools/train naturals OUT/news --photos PHOTOS
tools/train naturals OUT/shards --shards FACES --leave-last 3 --matte-every 4

YuNet labels photos; shards bring its labels. Where it found nobody in a picture of a shard the face counts all the
same, with a typical box and without landmarks. The group of a shard's picture evens out how often it is drawn, and is
learnt by nothing. ``OUT`` holds image.npy and matte.npy, memory-mapped by generators, and meta.npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from tools.lib.evaluate.shards import empty, faces
from tools.lib.train.cutouts import SIDE, Portrait, head_matte
from tools.lib.train.teacher import DetectionTeacher

HELD_PORTRAIT, HELD_BACKGROUND = 10, 5  # every so many are kept for measuring
TIGHT = 0.7  # face size in shares of the picture from which the picture's border cuts the head


def photos(folder: Path, teacher: DetectionTeacher) -> Iterator[tuple[np.ndarray, str, np.ndarray | None]]:
    """Yield RGB of ``SIDE``, an empty group and YuNet's row of the face in the middle, if it found one."""
    for path in sorted(folder.glob("*.jpg")):
        bgr = cv2.imread(str(path))
        bgr = bgr if bgr.shape[:2] == (SIDE, SIDE) else cv2.resize(bgr, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        found = teacher(bgr)
        if len(found):
            middle = min(found, key=lambda f: float(np.hypot(*(f[:2] + f[2:4] / 2 - SIDE / 2))))
            yield bgr[..., ::-1], "", middle[:14]


def shards(paths: list[Path]) -> Iterator[tuple[np.ndarray, str, np.ndarray | None]]:
    for face in faces(paths):
        known = bool(np.isfinite(face.box).all() and np.isfinite(face.landmarks).all())
        row = np.concatenate([face.box[:2], face.box[2:] - face.box[:2], face.landmarks.ravel()]) if known else None
        yield face.rgb, face.group, row


def prepare(out: Path, pictures: Iterator[tuple[np.ndarray, str, np.ndarray | None]], matte_every: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    images, groups, rows = [], [], []
    for image, group, row in pictures:
        images.append(image)
        groups.append(group)
        rows.append(np.full(14, np.nan, np.float32) if row is None else row.astype(np.float32))
    table = np.stack(rows)
    known = np.isfinite(table).all(1)
    table[~known] = np.median(table[known], 0)
    np.save(out / "image.npy", np.stack(images))
    mattes = np.lib.format.open_memmap(out / "matte.npy", "w+", np.uint8, (len(images), SIDE, SIDE))
    matted = known & (np.arange(len(images)) % matte_every == 0)
    for k in np.flatnonzero(matted):
        mattes[k] = head_matte(np.ascontiguousarray(images[k]), table[k, :4])
    np.savez(out / "meta.npz", faces=table, known=known, matted=matted, groups=np.array(groups))
    print(f"{out}: {len(images)} portraits, {known.sum()} with landmarks, {matted.sum()} with a matte")


class Gallery:
    """Portraits of one prepared folder; pictures stay in the file until drawn."""

    def __init__(self, folder: Path, *, held_out: bool) -> None:
        self._images = np.load(folder / "image.npy", mmap_mode="r")
        self._mattes = np.load(folder / "matte.npy", mmap_mode="r")
        with np.load(folder / "meta.npz") as meta:
            self._faces, self._known, self._matted = meta["faces"], meta["known"], meta["matted"]
            groups = meta["groups"]
        rows = np.arange(len(self._faces))
        rows = rows[(rows % HELD_PORTRAIT == 0) == held_out]
        self._groups = [rows[groups[rows] == name] for name in np.unique(groups[rows])]

    def pick(self, rng: np.random.Generator) -> Portrait:
        """Draw a group, then one of its portraits."""
        rows = self._groups[int(rng.integers(len(self._groups)))]
        k = int(rows[int(rng.integers(len(rows)))])
        box = self._faces[k, :4]
        return Portrait(
            np.asarray(self._images[k]),
            np.asarray(self._mattes[k]) if self._matted[k] else None,
            box,
            self._faces[k, 4:14].reshape(5, 2),
            known=bool(self._known[k]),
            tight=bool(np.sqrt(box[2] * box[3]) > TIGHT * SIDE),
        )


class Portraits:
    """Several galleries, each drawn from with its weight."""

    def __init__(self, galleries: list[Gallery], weights: list[float]) -> None:
        self._galleries, self._weights = galleries, np.array(weights) / np.sum(weights)

    def pick(self, rng: np.random.Generator) -> Portrait:
        return self._galleries[int(rng.choice(len(self._galleries), p=self._weights))].pick(rng)


def load_portraits(sources: list[str], *, held_out: bool) -> Portraits:
    """``sources`` are folders, each with ``:weight`` behind it."""
    pairs = [text.rpartition(":")[::2] for text in sources]
    return Portraits([Gallery(Path(folder), held_out=held_out) for folder, _ in pairs], [float(w) for _, w in pairs])


def load_backgrounds(folders: list[Path], *, held_out: bool) -> list[np.ndarray]:
    """RGB photos without a face, from folders of pictures or of shards, in both cases without (or only) every fifth."""
    out: list[np.ndarray] = []
    for folder in folders:
        names = sorted(folder.glob("*.jpg"))
        found = (cv2.imread(str(n))[..., ::-1] for n in names) if names else (rgb for _, rgb in empty(folder))
        out += [image for i, image in enumerate(found) if (i % HELD_BACKGROUND == 0) == held_out]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, help="a folder of pictures, one face in the middle of each")
    parser.add_argument("--shards", type=Path, help="a folder of faces-*.npz")
    parser.add_argument("--leave-last", type=int, default=3, help="shards kept for measuring")
    parser.add_argument("--matte-every", type=int, default=1, help="cut the head out of every so manieth portrait")
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.photos:
        source = photos(args.photos, DetectionTeacher(args.teachers))
    else:
        paths = sorted(args.shards.glob("faces-*.npz"))
        source = shards(paths[: len(paths) - args.leave_last])
    prepare(args.out, source, args.matte_every)


if __name__ == "__main__":
    main()
