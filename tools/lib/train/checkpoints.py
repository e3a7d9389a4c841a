# SPDX-License-Identifier: Apache-2.0
"""What of a training is kept in the repository: the averaged weights, from which anybody goes on.

They are float16. Where that is more than ``MOST_BYTES``, the large tensors are int8 with a scale for each output
channel, which costs the deeper embedder 0.0004 of its cosine to the teacher (0.8625 to 0.8621 on unseen crops).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tools.lib.train.net import add_passive

MOST_BYTES = 4_000_000  # of weights that are kept: whoever clones the repository fetches each version of them
LARGE = 2_048  # values: smaller tensors together are some hundredths of a network, and norms are among them
LEVELS = 127  # of a code, to either side
SMALLEST = 1e-12  # a scale: a channel of zeros has one, too


def keep(path: Path, net: nn.Module) -> None:
    """Write ``net`` as a start for ``--init`` and for the exporters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, {"average": small(net.state_dict())})


def half(checkpoint: Path) -> bytes:
    """What ``keep`` would have written of a run's averaged weights."""
    out = io.BytesIO()
    torch.save({"average": small(opened(checkpoint)["average"])}, out)
    return out.getvalue()


def small(state: dict[str, Tensor]) -> dict[str, Any]:
    """``state`` as float16, or its large tensors as ``coded`` where it would have more than ``MOST_BYTES``."""
    halves = {key: value.cpu().half() if value.is_floating_point() else value.cpu() for key, value in state.items()}
    if sum(value.numel() * value.element_size() for value in halves.values()) <= MOST_BYTES:
        return {**halves}
    return {
        key: coded(state[key]) if value.is_floating_point() and value.ndim > 1 and value.numel() >= LARGE else value
        for key, value in halves.items()
    }


def coded(value: Tensor) -> dict[str, Tensor]:
    """``codes``, int8 in the shape of ``value``, and ``scale``, one for each of its rows (output channels)."""
    rows = value.cpu().float().flatten(1)
    scale = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp_min(SMALLEST)
    return {"codes": (rows / scale).round().to(torch.int8).view_as(value), "scale": scale[:, 0].clone()}


def opened(path: Path) -> dict[str, Any]:
    """A run's checkpoint, or what ``keep`` or ``tools.lib.train.from_tflite`` wrote: tensors by name in ``average``."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state | {"average": {key: _decoded(value) for key, value in state["average"].items()}}


def _decoded(value: Tensor | dict[str, Tensor]) -> Tensor:
    if isinstance(value, Tensor):
        return value
    codes = value["codes"]
    return (codes.float().flatten(1) * value["scale"][:, None]).view(codes.shape)


def begin_from(path: Path, net: nn.Module) -> None:
    """Load what ``opened`` reads into a net as deep or deeper."""
    net.load_state_dict(add_passive(net, opened(path)["average"]))


def save(path: Path, state: dict[str, object]) -> None:
    """Write ``state`` whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
