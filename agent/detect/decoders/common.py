# SPDX-License-Identifier: Apache-2.0
"""What all decoders share: thresholds in the raw domain, grids, and the record they yield.

Nearly every cell of nearly every frame holds no face. A decoder therefore compares raw scores with a raw threshold
computed once, and dequantises only the few rows that pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.manifest import ModelEntry, OutputSpec

# Rows kept before suppression, best first. A face fires in about ten cells; a hostile picture cannot cost more.
MAX_CANDIDATES = 256

Floats = NDArray[np.float32]
Level = TypeVar("Level")


class Candidates(msgspec.Struct, frozen=True, eq=False):
    """Possible faces, float32, in pixels of the model's input.

    Boxes (n, 4) as x0, y0, x1, y1; landmarks (n, 5, 2) as x, y; scores (n,) in [0, 1].
    """

    boxes: Floats
    landmarks: Floats
    scores: Floats


NOTHING = Candidates(np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty(0, np.float32))


class Decoder(Protocol):
    """A pure function of one frame's raw outputs."""

    def decode(self, raw: dict[str, NDArray[Any]]) -> Candidates:
        """Return what scores at least the threshold, in no particular order, overlaps included."""
        ...


class Output:
    """One output, flattened to (rows, columns) and read row by row. Its real values are (raw - zero_point) * scale."""

    __slots__ = ("_columns", "_name", "_spec", "scale", "zero_point")

    def __init__(self, entry: ModelEntry, name: str, rows: int, columns: int) -> None:
        """Raise ModelError unless the output has ``rows`` times ``columns`` values, columns last."""
        spec = entry.outputs[name]
        if math.prod(spec.shape) != rows * columns or spec.shape[-1] % columns:
            raise ModelError(
                f"model {entry.name}: output {name} has the shape {spec.shape}; for an input of "
                f"{entry.input.width}x{entry.input.height} the decoder {entry.decoder} needs {rows} rows of {columns}"
            )
        self._name, self._columns, self._spec = name, columns, spec
        self.scale = np.float32(spec.scale or 1.0)
        self.zero_point = np.float32(spec.zero_point if spec.scale else 0)

    def least(self, value: float) -> np.generic | None:
        """Return the smallest raw value that means at least ``value``, None when the output cannot reach it."""
        return least_raw(self._spec, value)

    def table(self, raw: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the raw values as (rows, columns), or (rows,) for a single column; no copy."""
        return raw[self._name].reshape(-1, self._columns) if self._columns > 1 else raw[self._name].reshape(-1)

    def take(self, raw: dict[str, NDArray[Any]], rows: NDArray[np.intp]) -> Floats:
        """Return the real values of some rows, float32."""
        values: Floats = self.table(raw)[rows].astype(np.float32)
        values -= self.zero_point
        values *= self.scale
        return values


def least_raw(spec: OutputSpec, value: float) -> np.generic | None:
    """Return the smallest raw value that means at least ``value``, None when the quantisation ends below it."""
    if spec.dtype == "float32":
        return np.float32(value)
    limits = np.iinfo(spec.dtype)
    raw = math.ceil(round(value / spec.scale, 6)) + spec.zero_point
    return np.dtype(spec.dtype).type(max(raw, limits.min)) if raw <= limits.max else None


def reachable(entry: ModelEntry, threshold: float, levels: list[Level | None]) -> list[Level]:
    """Return the levels of a head that can reach the threshold; raises ModelError if none can."""
    able = [level for level in levels if level is not None]
    if not able:
        raise ModelError(f"model {entry.name}: no score can reach the threshold {threshold}; lower the threshold")
    return able


def grid(width: int, height: int, stride: int, *, offset: float, anchors: int = 1) -> Floats:
    """Return the points ((x + offset) * stride, (y + offset) * stride) of all cells, float32 (n, 2).

    Rows of the picture first, ``anchors`` equal points per cell next to each other.
    """
    columns, rows = -(-width // stride), -(-height // stride)
    points = np.empty((rows, columns, anchors, 2), np.float32)
    points[..., 0] = ((np.arange(columns, dtype=np.float32) + offset) * stride)[None, :, None]
    points[..., 1] = ((np.arange(rows, dtype=np.float32) + offset) * stride)[:, None, None]
    return points.reshape(-1, 2)


def corners(centres: Floats, distances: Floats) -> Floats:
    """Return boxes (n, 4) from points (n, 2) and distances to left, top, right and bottom (n, 4)."""
    boxes = np.empty_like(distances)
    np.subtract(centres, distances[:, :2], out=boxes[:, :2])
    np.add(centres, distances[:, 2:], out=boxes[:, 2:])
    return boxes


def logit(probability: float) -> float:
    """Return the inverse of the sigmoid."""
    return math.log(probability / (1 - probability))


def sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)) for x well above the overflow of exp, as all logits over a threshold are."""
    values: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return values


def join(parts: Sequence[Candidates]) -> Candidates:
    """Put levels together and keep the best ``MAX_CANDIDATES``."""
    if not parts:
        return NOTHING
    if len(parts) == 1:
        (all_parts,) = parts
    else:
        all_parts = Candidates(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.landmarks for p in parts]),
            np.concatenate([p.scores for p in parts]),
        )
    if len(all_parts.scores) <= MAX_CANDIDATES:
        return all_parts
    best = np.argpartition(all_parts.scores, -MAX_CANDIDATES)[-MAX_CANDIDATES:]
    return Candidates(all_parts.boxes[best], all_parts.landmarks[best], all_parts.scores[best])
