# SPDX-License-Identifier: Apache-2.0
"""What a listed liveness network makes of simulated takes that no training saw, beside its teachers.

tools/train score-liveness TEST --photos LFW_DEV

One take is one look; a unit decides by the mean of several. Attacks are counted where a twentieth of people is refused,
and at the listed working point; intervals are Wilson's, 95 %. Simulated attacks rank ideas: they give no APCER.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.detect.detector import load_detector
from agent.door.evidence import Part
from agent.inference.engine import load_engine
from agent.unit.liveness import make_passive
from tools.lib.evaluate import pictures
from tools.lib.evaluate.rates import rate
from tools.lib.evaluate.recogniser import DEFAULT_MANIFEST
from tools.lib.train.liveness import BONA_FIDE, load
from tools.lib.train.media import HELD_OUT

REFUSED = 0.05  # of people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("test", type=Path, help="of tools/train presentations --held-out")
    parser.add_argument("--photos", type=Path, help="natural photos of people, taken as they are: nothing is simulated")
    parser.add_argument("--detector-name", default="detector-320x240", help="for --photos; default: %(default)s")
    parser.add_argument("--models", type=Path, default=DEFAULT_MANIFEST)
    parser.add_argument("--name", default="liveness")
    args = parser.parse_args()
    engine = load_engine(args.models, args.name)
    shards = [load(path) for path in sorted(args.test.glob("take-*.npz"))]
    images, labels, teachers = (np.concatenate(parts) for parts in zip(*shards, strict=True))
    ours = np.array([engine.dequantise("pad", engine.run(image)["pad"]).item() for image in images])
    told("teachers", teachers.mean(1), labels, None)
    part = make_passive(engine)
    told(args.name, ours, labels, part.edge)
    if args.photos:
        natural = np.array(list(looked_at(args, part)))
        print(f"natural photos: a twentieth is below {np.quantile(natural, REFUSED):.2f}")
        print(f"  at the working point: BPCER {spelled(natural < part.edge)}")


def looked_at(args: argparse.Namespace, part: Part) -> Iterator[float]:
    """What the network says of the best face in each photo."""
    detector = load_detector(args.models, args.detector_name)
    for path in pictures.find(args.photos):
        frame = pictures.load(path, detector.input_size)
        faces = detector.detect(frame)
        said = part.look(frame, faces[0].box) if faces else None
        if said is not None:
            yield said


def told(name: str, said: np.ndarray, labels: np.ndarray, edge: float | None) -> None:
    """Print the errors at the edge where ``REFUSED`` of people are refused, and at the listed one."""
    known = np.isfinite(said)
    said, labels = said[known], labels[known]
    people = labels == BONA_FIDE
    print(f"{name}: area under the curve {auc(said[people], said[~people]):.3f}")
    for what, value in (("at BPCER 0.05", float(np.quantile(said[people], REFUSED))), ("at the working point", edge)):
        if value is None:
            continue
        print(f"  {what}: {value:.2f}, BPCER {spelled(said[people] < value)}")
        for kind in sorted(set(labels) - {BONA_FIDE}):
            held = " (held out)" if kind == HELD_OUT else ""
            print(f"    {kind}{held}: APCER {spelled(said[labels == kind] >= value)}")


def spelled(hits: np.ndarray) -> str:
    found = rate("share", int(hits.sum()), len(hits))
    return f"{found['share']:.3f} ({found['share_low']:.3f} to {found['share_high']:.3f}) of {len(hits)}"


def auc(people: np.ndarray, attacks: np.ndarray) -> float:
    """Share of pairs in which the person looks more alive."""
    order = np.sort(attacks)
    return float(
        (np.searchsorted(order, people, "left") + np.searchsorted(order, people, "right")).mean() / 2 / len(order)
    )


if __name__ == "__main__":
    main()
