# SPDX-License-Identifier: Apache-2.0
"""Make shards of augmented, teacher-labelled crops.

tools/train pool OUT --faces A.npy:0.8:0.2 B.npy:0.2:0.7 --shards 30 --worker 0/2

``FILE:share:warp`` names aligned faces, how often they are drawn, and how strongly they are warped. A shard
depends on its number alone, so workers can be stopped, restarted and added.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np

from tools.lib.train import augment
from tools.lib.train.teacher import EmbeddingTeacher

SHARD = 4096  # crops in a shard: 280 MB with the feature maps
CLIP_SIGMA = 5.0  # feature maps are stored as int8 over +-5 standard deviations of each channel
MORPH_SHARE = 0.5
SURROUND_SHARE = 0.5  # with --backgrounds


class Faces:
    """Aligned faces of several files, drawn by share."""

    def __init__(self, specs: list[str], backgrounds: Path | None = None) -> None:
        parts = [spec.rsplit(":", 2) for spec in specs]
        self.images = [np.load(name, mmap_mode="r") for name, _, _ in parts]
        self.share = np.cumsum([float(share) for _, share, _ in parts])
        self.warp = [float(warp) for _, _, warp in parts]
        paths = [] if backgrounds is None else sorted(backgrounds.glob("*.jpg"))
        self.scenes = [cv2.imread(str(path))[..., ::-1] for path in paths]

    def scene(self, rng: np.random.Generator) -> np.ndarray:
        """A 112x112 part of a picture without a face, float32 RGB."""
        source = self.scenes[int(rng.integers(len(self.scenes)))]
        side = int(np.exp(rng.uniform(np.log(60), np.log(min(source.shape[:2])))))
        x, y = (int(rng.integers(limit - side + 1)) for limit in source.shape[1::-1])
        part = cv2.resize(
            source[y : y + side, x : x + side], (augment.SIZE, augment.SIZE), interpolation=cv2.INTER_AREA
        )
        return part.astype(np.float32)

    def view(self, rng: np.random.Generator) -> np.ndarray:
        which = int(np.searchsorted(self.share, rng.random() * self.share[-1]))
        images = self.images[which]
        return augment.view(images[rng.integers(len(images))], rng, warp=self.warp[which])


def crop(faces: Faces, rng: np.random.Generator) -> np.ndarray:
    """One augmented crop, uint8 RGB 112x112x3."""
    image = faces.view(rng)
    if rng.random() < MORPH_SHARE:
        image = augment.morph(image, faces.view(rng), rng)
    if faces.scenes and rng.random() < SURROUND_SHARE:
        image = augment.surround(image, faces.scene(rng), rng)
    if rng.random() < 0.15:
        augment.occlude(image, rng)
    return augment.sensor(image, rng)


def make_shard(
    number: int, seed: int, faces: Faces, teacher: EmbeddingTeacher, out: Path, scales: tuple[np.ndarray, np.ndarray]
) -> None:
    rng = np.random.default_rng([seed, number])
    images = np.stack([crop(faces, rng) for _ in range(SHARD)])
    embedding = np.empty((SHARD, 128), np.float16)
    maps = [np.empty((SHARD, side, side, 128), np.int8) for side in (14, 7)]
    for start in range(0, SHARD, 64):
        targets = teacher(images[start : start + 64])
        embedding[start : start + 64] = targets.embedding
        for store, value, scale in zip(maps, (targets.map14, targets.map7), scales, strict=True):
            store[start : start + 64] = np.clip(np.rint(value / scale), -127, 127)
    for name, array in (("map7", maps[1]), ("map14", maps[0]), ("embedding", embedding), ("image", images)):
        temporary = out / f".{name}-{number:04d}.npy"
        np.save(temporary, array)
        temporary.replace(out / f"{name}-{number:04d}.npy")  # image last: its presence means the shard is whole


def map_scales(faces: Faces, teacher: EmbeddingTeacher, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """int8 step of each channel of the two maps, measured once per pool."""
    path = out / "scales.npz"
    if not path.exists():
        rng = np.random.default_rng(0)
        targets = teacher(np.stack([crop(faces, rng) for _ in range(256)]))
        steps = [value.reshape(-1, 128).std(0) * CLIP_SIGMA / 127 for value in (targets.map14, targets.map7)]
        temporary = out / f".scales-{os.getpid()}.npz"
        np.savez(temporary, map14=steps[0], map7=steps[1])
        temporary.replace(path)
    with np.load(path) as scales:
        return scales["map14"], scales["map7"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faces", nargs="+", required=True, metavar="FILE:SHARE:WARP")
    parser.add_argument("--backgrounds", type=Path, help="pictures without a face, to stand behind and before faces")
    parser.add_argument("--shards", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", default="0/1", metavar="I/N")
    parser.add_argument("--teachers", type=Path, default=Path("../shared/models/teacher"))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    faces, teacher = Faces(args.faces, args.backgrounds), EmbeddingTeacher(args.teachers)
    scales = map_scales(faces, teacher, args.out)
    index, count = (int(v) for v in args.worker.split("/"))
    for number in range(index, args.shards, count):
        if (args.out / f"image-{number:04d}.npy").exists():
            continue
        began = time.monotonic()
        make_shard(number, args.seed, faces, teacher, args.out, scales)
        print(f"shard {number}: {SHARD / (time.monotonic() - began):.0f} crops/s", flush=True)


if __name__ == "__main__":
    main()
