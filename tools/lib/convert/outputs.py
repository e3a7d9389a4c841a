# SPDX-License-Identifier: Apache-2.0
"""Which output of a model is which output of the decoder."""

from __future__ import annotations

import math
from collections.abc import Mapping

from agent.errors import ModelError, printable
from agent.inference.heads import HEADS

TASKS = {"embedding": "embedder", "scrfd": "detector", "yunet": "detector"}  # decoders of models made elsewhere
SCRFD_COLUMNS = {"score": 1, "bbox": 4, "kps": 10}
SCRFD_ANCHORS = 2
STRIDES = (8, 16, 32)

Shapes = Mapping[str, tuple[int, ...]]


def name_outputs(decoder: str, found: Shapes, given: Mapping[str, str], size: tuple[int, int]) -> dict[str, str]:
    """Return the decoder's names with the names of the outputs ``found`` in the model; raises ModelError.

    ``given`` is what the user said. Without it, outputs go by their names, a lone one is the embedding, and SCRFD's
    numbered outputs by their sizes: exporters drop their names. Outputs that the decoder does not know are left out of
    the converted model.
    """
    heads = HEADS[TASKS[decoder], decoder]
    if unknown := sorted(set(given) - heads):
        raise ModelError(f"{decoder} has no output {printable(unknown[0])!r}; it has {', '.join(sorted(heads))}")
    if absent := sorted(set(given.values()) - set(found)):
        raise ModelError(f"the model has no output {printable(absent[0])!r}; it has {describe(found)}")
    names = {name: name for name in heads if name in found} | dict(given)
    if not names and decoder == "embedding" and len(found) == 1:
        names = {"embedding": next(iter(found))}
    if not names and decoder == "scrfd":
        names = scrfd_by_size(found, size)
    if missing := sorted(heads - set(names)):
        raise ModelError(
            f"which output is {missing[0]!r}? Say --output {missing[0]}=NAME; the model has {describe(found)}"
        )
    if len(set(names.values())) < len(names):
        raise ModelError("two outputs of the decoder are the same one of the model; check --output")
    return dict(sorted(names.items()))


def scrfd_by_size(found: Shapes, size: tuple[int, int]) -> dict[str, str]:
    """Return SCRFD's outputs by their rows (anchors of a stride) and columns (1, 4 or 10 numbers)."""
    width, height = size
    names = {}
    for stride in STRIDES:
        rows = math.ceil(width / stride) * math.ceil(height / stride) * SCRFD_ANCHORS
        for head, columns in SCRFD_COLUMNS.items():
            fitting = [n for n, shape in found.items() if math.prod(shape) == rows * columns and shape[-1] == columns]
            if len(fitting) == 1:
                names[f"{head}_{stride}"] = fitting[0]
    return names


def describe(found: Shapes) -> str:
    return ", ".join(f"{printable(name)} {shape}" for name, shape in found.items())
