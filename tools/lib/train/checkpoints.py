# SPDX-License-Identifier: Apache-2.0
"""What of a training is kept in the repository: the averaged weights as float16, from which anybody goes on."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from tools.lib.train.net import add_passive


def keep(path: Path, net: nn.Module) -> None:
    """Write ``net`` as a start for ``--init`` and for the exporters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, {"average": halved(net.state_dict())})


def half(checkpoint: Path) -> bytes:
    """What ``keep`` would have written of a run's averaged weights."""
    out = io.BytesIO()
    torch.save({"average": halved(torch.load(checkpoint, weights_only=True, map_location="cpu")["average"])}, out)
    return out.getvalue()


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.cpu().half() if value.is_floating_point() else value.cpu() for key, value in state.items()}


def begin_from(path: Path, net: nn.Module) -> None:
    """Load what ``keep``, a run or ``tools.lib.train.from_tflite`` wrote, into a net as deep or deeper."""
    net.load_state_dict(add_passive(net, torch.load(path, weights_only=True, map_location="cpu")["average"]))


def save(path: Path, state: dict[str, object]) -> None:
    """Write ``state`` whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
