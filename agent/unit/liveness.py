# SPDX-License-Identifier: Apache-2.0
"""What this unit has to know of a face before it announces it."""

from __future__ import annotations

from collections.abc import Callable

from agent.config.schema import Config
from agent.detect.detector import Detector
from agent.door.challenge import Prompt
from agent.door.liveness import CheckedLiveness, LivenessCheck, UncheckedLiveness
from agent.errors import ModelError


def make_liveness(
    config: Config, detector: Detector, *, random: Callable[[int], bytes], prompt: Callable[[Prompt | None], None]
) -> LivenessCheck:
    """The check that the configuration asks for; ModelError where nobody could ever pass it.

    ``prompt`` is told what the person is to do, on the pipeline's thread, and None when there is nothing to do.
    """
    if config.liveness == "not_checked":
        return UncheckedLiveness()
    if detector.landmarker is None:
        raise ModelError(
            f"liveness: require needs a detector with a landmark model and {config.models.detector} has none: "
            "set models.detector to one that names its landmarks in the manifest"
        )
    return CheckedLiveness(random, prompt)
