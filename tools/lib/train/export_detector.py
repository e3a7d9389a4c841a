# SPDX-License-Identifier: Apache-2.0
"""Trained detector to models/detector-320x240.tflite and models/detector-640x480.tflite.

tools/train export-detector RUN/last.pt POOL OUT_FOLDER [--average START.pt] [--size 320 240] [--float]

With ``--average`` the weights are the mean of two checkpoints of one line of training, which keeps what either does
well (model soups, Wortsman et al. 2022).
Activation ranges come from scenes of the pool; the larger model's from the same scenes at twice the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
import torch

from tools.lib.train.checkpoints import opened
from tools.lib.train.detector_net import STRIDES, DetectorNet
from tools.lib.train.exporting import options, write
from tools.lib.train.fold import fold
from tools.lib.train.quantise import apply, convert

SIZES = ((320, 240), (640, 480))
CALIBRATION = 200  # scenes


def forward(net: DetectorNet) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return the network as a TensorFlow function with the signature the agent reads."""
    stages = [fold(stage) for stage in net.stages]
    heads = [
        (fold(h.neck), fold(torch.nn.Sequential(h.score)), fold(torch.nn.Sequential(h.geometry))) for h in net.heads
    ]

    def run(image: tf.Tensor) -> dict[str, tf.Tensor]:
        x, out = image, {}
        for stride, stage, (neck, score, geometry) in zip(STRIDES, stages, heads, strict=True):
            x = apply(x, stage)
            inner = apply(x, neck)
            out[f"score_{stride}"] = apply(inner, score)
            out[f"geometry_{stride}"] = apply(inner, geometry)
        return out

    return run


def scenes(pool: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Every k-th scene of the pool's first shard, at ``size``."""
    images = np.load(pool / "image-0000.npy", mmap_mode="r")
    for row in range(0, len(images), max(1, len(images) // CALIBRATION)):
        image = np.asarray(images[row])
        yield image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def export(net: DetectorNet, size: tuple[int, int], representative: Iterable[np.ndarray] | None) -> bytes:
    return convert(forward(net.eval()), (size[1], size[0], 3), representative)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--average", type=Path, metavar="CHECKPOINT", help="another one, to take the mean with")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="one size only; default: both")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    net = DetectorNet()
    weights = opened(args.checkpoint)["average"]
    if args.average:
        other = opened(args.average)["average"]
        weights = {k: (v + other[k]) / 2 if v.is_floating_point() else v for k, v in weights.items()}
    net.load_state_dict(weights)
    args.out.mkdir(parents=True, exist_ok=True)
    for size in [tuple(args.size)] if args.size else SIZES:
        content = export(net, size, None if args.float else list(scenes(args.pool, size)))
        path = args.out / f"detector-{size[0]}x{size[1]}{'-float' if args.float else ''}.tflite"
        write(path, content)


if __name__ == "__main__":
    main()
