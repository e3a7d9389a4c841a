# SPDX-License-Identifier: Apache-2.0
"""Make an int8 model of this project from an ONNX embedder or detector, measure what it lost, and list it.

Weights become int8 per channel, activations int8; the model's own normalisation and order of colours go into its first
layer, so that a unit feeds RGB pixels. Above a limit of the loss nothing is written, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agent.detect.detector import load_detector
from agent.embed.records import CROP_SIZE, EMBEDDING_DIM
from agent.errors import ModelError, PosternError
from agent.inference.engine import Engine
from tools.lib.convert import loss, material
from tools.lib.convert.graph import read_graph
from tools.lib.convert.network import FloatModel, Normalisation, check_forward, make_forward, quantise
from tools.lib.convert.operators import OPERATORS
from tools.lib.convert.outputs import TASKS, name_outputs
from tools.lib.evaluate import pictures
from tools.lib.evaluate.__main__ import finite, table
from tools.lib.evaluate.recogniser import existing_file, progress
from tools.lib.manifest import DEFAULT_MANIFEST, add_entry, build_entry

DEFAULT_LIMITS = {"embedder": loss.MAX_COSINE_LOSS, "detector": loss.MAX_FACE_LOSS}


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        report = convert(args)
    except (PosternError, OSError) as error:  # Pillow's errors about a broken picture are OSErrors
        print(f"tools/convert: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, PosternError) else 2
    except SystemExit as error:  # how the readers of pictures and pairs refuse
        print(error.code, file=sys.stderr)
        return 2
    print("\n".join(table(finite(report))))
    return 0


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert, measure and list; raises ModelError before anything is written."""
    check_arguments(args)
    task = TASKS[args.decoder]
    graph = read_graph(args.model, frozenset(OPERATORS), args.size)
    _, _, height, width = graph.shape
    size = (width, height)
    normalisation = Normalisation(args.mean, args.std, args.colour == "BGR")
    everything = {name: name for name in graph.outputs}
    blank = np.zeros((height, width, 3), np.uint8)
    found = {name: value.shape for name, value in FloatModel(args.model, normalisation, everything).run(blank).items()}
    names = name_outputs(args.decoder, found, args.output, size)
    shapes = {"embedding": embedding_shape(found[names["embedding"]], size)} if task == "embedder" else {}
    model = FloatModel(args.model, normalisation, names)
    forward = make_forward(graph, normalisation, names, shapes)
    difference = check_forward(forward, model, size)

    aligner = None if args.aligned or task == "detector" else load_detector(args.models, args.detector_name)
    paths = pictures.find(args.pictures, min(args.limit, material.MAX_PICTURES))
    if task == "embedder":
        images = material.crops_of(paths, aligner)
    else:
        images = [pictures.load(path, size).lores for path in progress(paths)]
    ranges, held_out = material.split(images)
    content = quantise(forward, size, ranges)

    facts = {
        "licence": args.licence,
        "training_data": args.training_data,
        "teacher": args.teacher,
        "score_threshold": args.score_threshold,
    }
    entry = build_entry(content, f"{args.name}.tflite", args.name, args.decoder, **facts)
    engine = Engine(entry, content)
    allowed = DEFAULT_LIMITS[task] if args.max_loss is None else args.max_loss
    if task == "embedder":
        embedders = loss.Embedders(engine, model)
        figures, limit = embedders.cosine(held_out, allowed)
        limits = [limit]
        metrics = {"int8_mean_cosine": figures["mean_cosine"]}
        if args.pairs:
            verified, limit = embedders.verify(args.pairs, args.images, aligner, args.max_accuracy_loss)
            figures |= verified
            limits.append(limit)
            metrics["accuracy"] = verified["verification_int8"]["accuracy"]
        figures["cpu_milliseconds"] = embedders.times.summary()
    else:
        figures, limits = loss.compare_detectors(engine, model, held_out, allowed, args.max_landmark_loss)
        metrics = {"int8_share_found_again": figures["share_found_again"]}
    print("\n".join(table(finite(figures))), file=sys.stderr)
    loss.check_limits(limits)
    entry = build_entry(content, f"{args.name}.tflite", args.name, args.decoder, metrics=metrics, **facts)
    add_entry(args.manifest, entry, content)
    return {
        "model": entry.name,
        "digest": entry.digest,
        "bytes": entry.size,
        "manifest": str(args.manifest),
        "difference_before_quantisation": difference,
        "pictures_for_ranges": len(ranges),
        **figures,
        "losses": {item.what: {"loss": item.loss, "allowed": item.allowed} for item in limits},
    }


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what would only fail after minutes; raises ModelError."""
    if (args.pairs is None) != (args.images is None):
        raise ModelError("--pairs and --images go together")
    if TASKS[args.decoder] == "detector" and (args.pairs or args.aligned):
        raise ModelError("--pairs and --aligned are for embedders")
    if min(args.std) <= 0:
        raise ModelError("--std divides pixels and must be above 0")


def embedding_shape(found: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Return the shape to give the embedding; raises ModelError when no unit could use it."""
    if size != (CROP_SIZE, CROP_SIZE) or int(np.prod(found)) != EMBEDDING_DIM:
        raise ModelError(
            f"an embedder takes {CROP_SIZE}x{CROP_SIZE} crops and answers {EMBEDDING_DIM} numbers, "
            f"which is what galleries hold; this one takes {size[0]}x{size[1]} and answers {found}"
        )
    return 1, EMBEDDING_DIM


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    say = parser.add_argument
    say("--model", type=existing_file, required=True, metavar="FILE.onnx")
    say("--name", required=True, help="in the manifest, and of the file")
    say("--decoder", required=True, choices=sorted(TASKS))
    say("--pictures", type=Path, required=True, metavar="FOLDER", help="representative: like what the cameras will see")
    say("--limit", type=int, default=material.MAX_PICTURES, help="at most so many of them; default: %(default)s")
    say("--aligned", action="store_true", help="an embedder's pictures are aligned 112x112 crops already")
    say("--mean", type=per_channel, required=True, help="the model sees (pixel - mean) / std: one number or three")
    say("--std", type=per_channel, required=True, help="likewise; pixels are 0 to 255")
    say("--colour", choices=["RGB", "BGR"], default="RGB", help="what the model takes; default: %(default)s")
    say("--size", type=picture_size, metavar="WIDTHxHEIGHT", help="of a model that leaves it open")
    say("--output", type=named, action=_Named, default={}, metavar="NAME=TENSOR", help="the model's name of an output")
    say("--score-threshold", type=float, help="a detector's working point, 0 to 1")
    say(
        "--max-loss", type=float, help=f"embedder: 1 - mean cosine; detector: share of faces; default: {DEFAULT_LIMITS}"
    )
    say("--max-accuracy-loss", type=float, default=loss.MAX_ACCURACY_LOSS, help="over --pairs; default: %(default)s")
    say("--max-landmark-loss", type=float, default=loss.MAX_LANDMARK_LOSS, help="eye distances; default: %(default)s")
    say("--pairs", type=existing_file, metavar="CSV", help="also compare the accuracy over pairs: columns a, b, same")
    say("--images", type=Path, metavar="FOLDER", help="of the pictures that --pairs names")
    say("--licence", required=True, help="SPDX expression of the weights")
    say("--training-data", required=True)
    say("--teacher")
    say("--manifest", type=Path, default=DEFAULT_MANIFEST, help="where to list it; default: models/manifest.yaml")
    say("--models", type=Path, default=DEFAULT_MANIFEST, help="manifest of the detector that aligns; likewise")
    say("--detector-name", default="detector-320x240", help="that detector; default: %(default)s")
    return parser


class _Named(argparse.Action):
    def __call__(self, _parser: object, namespace: argparse.Namespace, values: Any, _option: object = None) -> None:  # noqa: ANN401 - argparse's signature
        namespace.output = {**namespace.output, values[0]: values[1]}


def named(text: str) -> tuple[str, str]:
    name, _, tensor = text.partition("=")
    if not (name and tensor):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TENSOR")
    return name, tensor


def per_channel(text: str) -> tuple[float, float, float]:
    values = [float(item) for item in text.split(",")]
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError("give one number or three, with commas")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


def picture_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
