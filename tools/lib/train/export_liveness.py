# SPDX-License-Identifier: Apache-2.0
"""Write the liveness network of a run as int8 (or, with --float, float32) .tflite.

tools/train export-liveness RUN/last.pt POOL models/liveness.tflite
"""

from __future__ import annotations

import tensorflow as tf
import torch
from torch import nn

from agent.door.passive import SIDE
from tools.lib.train.checkpoints import opened
from tools.lib.train.exporting import options, write
from tools.lib.train.fold import fold
from tools.lib.train.liveness import LivenessNet, load
from tools.lib.train.quantise import apply, convert

REPRESENTATIVE = 500  # takes of the shard that is never trained on


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    net = LivenessNet()
    net.load_state_dict(opened(args.checkpoint)["average"])
    net.eval()
    layers = [*fold(net.body), *fold(nn.Sequential(net.live))]

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"pad": tf.reshape(apply(image, layers), (1, 1))}

    pictures = None if args.float else list(load(args.pool / "take-0000.npz")[0][:REPRESENTATIVE])
    content = convert(forward, (2 * SIDE, SIDE, 3), pictures)
    write(args.out, content)


if __name__ == "__main__":
    main()
