# SPDX-License-Identifier: Apache-2.0
"""Write the landmark network of a run as int8 (or, with --float, float32) .tflite.

tools/train export-landmarks RUN/last.pt POOL models/landmarks.tflite
"""

from __future__ import annotations

import tensorflow as tf
import torch
from torch import nn

from agent.detect.landmarks import PATCH
from tools.lib.train.checkpoints import opened
from tools.lib.train.exporting import options, write
from tools.lib.train.fold import fold
from tools.lib.train.landmarks import LandmarkNet, load
from tools.lib.train.quantise import apply, convert

REPRESENTATIVE = 500  # patches of the held-out shard


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    net = LandmarkNet()
    net.load_state_dict(opened(args.checkpoint)["average"])
    net.eval()
    body, score, marks = (fold(part) for part in (net.body, nn.Sequential(net.score), nn.Sequential(net.marks)))

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        inner = apply(image, body)
        return {
            "score": tf.reshape(apply(inner, score), (1, 1)),
            "landmarks": tf.reshape(apply(inner, marks), (1, 10)),
        }

    pictures = None if args.float else list(load(args.pool, 0)[0][:REPRESENTATIVE])
    content = convert(forward, (PATCH, PATCH, 3), pictures)
    write(args.out, content)


if __name__ == "__main__":
    main()
