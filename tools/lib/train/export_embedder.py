# SPDX-License-Identifier: Apache-2.0
"""Write the embedder of a run as int8 (or, with --float, float32) .tflite.

tools/train export-embedder RUN/last.pt POOL OUT.tflite

Activation ranges come from pictures of the pool's held-out shard 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
import torch

from tools.lib.train.checkpoints import opened
from tools.lib.train.embedder import Pool, Student, held_out, load_shard, recalibrate
from tools.lib.train.exporting import options
from tools.lib.train.fold import fold
from tools.lib.train.net import EMBEDDING_DIM
from tools.lib.train.quantise import apply, convert

REPRESENTATIVE = 512  # pictures: ranges of ReLU6 nets settle well before


def content(checkpoint: Path, pool: Path, *, quantised: bool = True) -> tuple[bytes, str]:
    """The .tflite of a run's averaged weights, and what to tell about it."""
    state = opened(checkpoint)
    net = Student.like({name: value.float() for name, value in state["average"].items()}).net
    recalibrate(net, Pool(pool))
    held = load_shard(pool, 0)
    layers = fold(net)

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": tf.reshape(apply(image, layers), (1, EMBEDDING_DIM))}

    pictures = list(np.array(held["image"][-REPRESENTATIVE:])) if quantised else None
    made = convert(forward, (112, 112, 3), pictures)
    return made, f"{len(made)} bytes, step {state.get('step', 0)}, float held-out cosine {held_out(net, held):.4f}"


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    made, told = content(args.checkpoint, args.pool, quantised=not args.float)
    args.out.write_bytes(made)
    print(f"{args.out}: {told}")


if __name__ == "__main__":
    main()
