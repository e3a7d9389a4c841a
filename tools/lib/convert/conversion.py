# SPDX-License-Identifier: Apache-2.0
"""One ONNX file made int8 and measured against itself; nothing is written here."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.detect.detector import load_detector
from agent.embed.records import CROP_SIZE, EMBEDDING_DIM
from agent.errors import ModelError
from agent.inference.engine import Engine
from agent.inference.manifest import ModelEntry
from tools.lib.convert import loss, material
from tools.lib.convert.graph import read_graph
from tools.lib.convert.network import FloatModel, Normalisation, check_forward, make_forward, quantise
from tools.lib.convert.operators import OPERATORS
from tools.lib.convert.outputs import TASKS, name_outputs
from tools.lib.evaluate import pictures
from tools.lib.evaluate.__main__ import finite, table
from tools.lib.evaluate.recogniser import progress
from tools.lib.manifest import build_entry


@dataclass(frozen=True, slots=True)
class Made:
    """A converted model, its manifest entry, and what it lost."""

    entry: ModelEntry
    content: bytes
    report: dict[str, Any]


def make(args: argparse.Namespace) -> Made:
    """Convert and measure by the arguments of ``tools/convert``; raises ModelError when too much is lost."""
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
    allowed = loss.DEFAULT_LIMITS[task] if args.max_loss is None else args.max_loss
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
    report = {
        "model": entry.name,
        "digest": entry.digest,
        "bytes": entry.size,
        "difference_before_quantisation": difference,
        "pictures_for_ranges": len(ranges),
        **figures,
        "losses": {item.what: {"loss": item.loss, "allowed": item.allowed} for item in limits},
    }
    return Made(entry, content, report)


def embedding_shape(found: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Return the shape to give the embedding; raises ModelError when no unit could use it."""
    if size != (CROP_SIZE, CROP_SIZE) or int(np.prod(found)) != EMBEDDING_DIM:
        raise ModelError(
            f"an embedder takes {CROP_SIZE}x{CROP_SIZE} crops and answers {EMBEDDING_DIM} numbers, "
            f"which is what galleries hold; this one takes {size[0]}x{size[1]} and answers {found}"
        )
    return 1, EMBEDDING_DIM
