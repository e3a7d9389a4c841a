# SPDX-License-Identifier: Apache-2.0
"""Pictures that set the ranges of a model's activations, and others to measure the loss on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from agent.detect.detector import Detector
from agent.embed.align import align
from agent.embed.records import CROP_SIZE, Crop
from agent.errors import ModelError
from tools.lib.evaluate import pictures
from tools.lib.evaluate.recogniser import progress, subject

MAX_PICTURES = 500  # ranges do not change beyond some hundred pictures; bounds time and memory
MIN_PICTURES = 20  # fewer show neither the range of light nor that of faces
HELD_OUT = 5  # every fifth picture measures the loss and sets no range

T = TypeVar("T")


def crop_of(path: Path, detector: Detector | None) -> Crop | None:
    """Return the aligned crop of a portrait, None without a face; without a detector the file is the crop."""
    if detector is None:
        with Image.open(path) as picture:
            crop = np.asarray(picture.convert("RGB"))
        if crop.shape[:2] != (CROP_SIZE, CROP_SIZE):
            raise ModelError(f"{path} is not {CROP_SIZE}x{CROP_SIZE}, so not aligned; leave --aligned out")
        return crop
    frame = pictures.load(path, detector.input_size)
    faces = detector.detect(frame)
    return align(frame, subject(frame, faces)) if faces else None


def crops_of(paths: Sequence[Path], detector: Detector | None) -> list[Crop]:
    """Return the crops of the portraits that show a face."""
    return present(crop_of(path, detector) for path in progress(paths))


def present(items: Iterable[T | None]) -> list[T]:
    return [item for item in items if item is not None]


def split(items: Sequence[T]) -> tuple[list[T], list[T]]:
    """Return what sets the ranges and what measures the loss; raises ModelError for too few."""
    if len(items) < MIN_PICTURES:
        raise ModelError(
            f"{len(items)} usable representative pictures are too few; at least {MIN_PICTURES}, better some hundred, "
            "as the cameras will see them"
        )
    return [x for i, x in enumerate(items) if i % HELD_OUT], list(items[::HELD_OUT])
