# SPDX-License-Identifier: Apache-2.0
"""What quantisation costs: one run's embedder in float32 and in int8 on the very same aligned faces.

tools/train score-embedder RUN/last.pt POOL --images DIR --pairs pairs.csv
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from tools.lib.evaluate import verification
from tools.lib.evaluate.recogniser import Recogniser, progress, subject
from tools.lib.train.checkpoints import opened
from tools.lib.train.embedder import Pool, Student, recalibrate, to_input
from tools.lib.train.net import EMBEDDING_DIM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pool", type=Path)
    verification.add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    student = Student.like(opened(args.checkpoint)["average"])
    recalibrate(student.net, Pool(args.pool))
    recogniser = Recogniser(args)
    pairs = verification.read_pairs(args.pairs, args.limit)
    names = sorted({*pairs[0], *pairs[1]})
    vectors = {kind: np.full((len(names), EMBEDDING_DIM), np.nan, np.float32) for kind in ("float32", "int8")}
    for index, path in enumerate(progress([args.images / name for name in names])):
        frame, faces = recogniser.faces(path)
        if faces:
            crop = recogniser.crop(frame, subject(frame, faces))
            vectors["int8"][index] = recogniser.embed(crop)
            with torch.no_grad():
                vectors["float32"][index] = functional.normalize(student.net(to_input(crop[None])))[0].numpy()
    report = {kind: verification.figures(rows, names, pairs, args.seed) for kind, rows in vectors.items()}
    cosines = (vectors["float32"] * vectors["int8"]).sum(1)
    print(json.dumps({"mean_cosine": float(np.nanmean(cosines)), **report}, indent=1))


if __name__ == "__main__":
    main()
