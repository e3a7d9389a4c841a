# SPDX-License-Identifier: Apache-2.0
"""What this unit has to know of a face before it announces it."""

from __future__ import annotations

import math
from collections.abc import Callable

from agent.camera.base import Rgb
from agent.config.schema import Config
from agent.detect.detector import Detector
from agent.door.challenge import Prompt
from agent.door.depth import DEPTH
from agent.door.evidence import Part
from agent.door.liveness import CheckedLiveness, LivenessCheck, UncheckedLiveness
from agent.door.passive import SIDE, passive_part
from agent.errors import ModelError
from agent.inference.engine import Engine


def make_passive(engine: Engine) -> Part:
    """A liveness network with the working point that the manifest states; ModelError where it is none, or has none."""
    entry = engine.entry
    if entry.task != "pad" or (entry.input.width, entry.input.height) != (SIDE, 2 * SIDE):
        raise ModelError(f"model {entry.name}: liveness is judged by two cuts of {SIDE}x{SIDE} pixels: set models.pad")
    if entry.score_threshold is None:
        raise ModelError(f"model {entry.name}: the manifest states no score_threshold: list it with one")

    def answer(seen: Rgb) -> float:
        return float(engine.dequantise("pad", engine.run(seen)["pad"]).item())

    return passive_part(answer, math.log(entry.score_threshold / (1 - entry.score_threshold)))


def make_liveness(
    config: Config,
    detector: Detector,
    pad: Engine | None = None,
    *,
    random: Callable[[int], bytes],
    prompt: Callable[[Prompt | None], None],
) -> LivenessCheck:
    """The check that the configuration asks for; ModelError where nobody could ever pass it.

    ``pad`` is the network of the passive part, where that is required.

    ``prompt`` is told what the person is to do, on the pipeline's thread, and None when there is nothing to do.
    """
    if config.liveness == "not_checked":
        return UncheckedLiveness()
    if detector.landmarker is None:
        raise ModelError(
            f"liveness: require needs a detector with a landmark model and {config.models.detector} has none: "
            "set models.detector to one that names its landmarks in the manifest"
        )
    parts = [] if pad is None else [make_passive(pad)]
    return CheckedLiveness(random, prompt, [*parts, DEPTH] if "depth" in config.liveness_parts else parts)
