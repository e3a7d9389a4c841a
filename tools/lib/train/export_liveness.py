# SPDX-License-Identifier: Apache-2.0
"""Write the liveness network of a run as int8 (or, with --float, float32) .tflite.

tools/train export-liveness RUN/last.pt POOL models/liveness.tflite
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tensorflow as tf
import torch
from torch import nn

from agent.door.passive import SIDE
from tools.lib.train.fold import fold
from tools.lib.train.liveness import LivenessNet, load
from tools.lib.train.quantise import apply, convert

REPRESENTATIVE = 500  # takes of the shard that is never trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pool", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--float", action="store_true", help="float32, to measure what quantisation costs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    net = LivenessNet()
    net.load_state_dict(torch.load(args.checkpoint, weights_only=True)["average"])
    net.eval()
    layers = [*fold(net.body), *fold(nn.Sequential(net.live))]

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"pad": tf.reshape(apply(image, layers), (1, 1))}

    pictures = None if args.float else list(load(args.pool / "take-0000.npz")[0][:REPRESENTATIVE])
    content = convert(forward, (2 * SIDE, SIDE, 3), pictures)
    args.out.write_bytes(content)
    print(f"{args.out}: {len(content)} bytes")


if __name__ == "__main__":
    main()
