# SPDX-License-Identifier: Apache-2.0
"""From a detector's raw tensors to boxes, landmarks and scores: one module per kind of head."""

from __future__ import annotations

from collections.abc import Callable

from agent.detect.decoders.blazeface import BlazeFaceDecoder
from agent.detect.decoders.common import Decoder
from agent.detect.decoders.postern import PosternDecoder
from agent.detect.decoders.scrfd import ScrfdDecoder
from agent.detect.decoders.yunet import YuNetDecoder
from agent.errors import ModelError
from agent.inference.manifest import ModelEntry

_DECODERS: dict[str, Callable[[ModelEntry, float], Decoder]] = {
    "postern": PosternDecoder,
    "yunet": YuNetDecoder,
    "scrfd": ScrfdDecoder,
    "blazeface": BlazeFaceDecoder,
}


def make_decoder(entry: ModelEntry, threshold: float) -> Decoder:
    """Make the decoder that a detector's entry names, for scores of at least ``threshold``; raises ModelError."""
    if entry.task != "detector":
        raise ModelError(f"model {entry.name} is listed as {entry.task}, not as a detector")
    return _DECODERS[entry.decoder](entry, threshold)
