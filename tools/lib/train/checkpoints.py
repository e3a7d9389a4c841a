# SPDX-License-Identifier: Apache-2.0
"""What of a training is kept in the repository: the averaged weights as float16, from which anybody goes on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tools.lib.train.net import add_passive


def keep(path: Path, net: nn.Module) -> None:
    """Write ``net`` as a start for ``--init`` and for the exporters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    save(path, {"average": state})


def begin_from(path: Path, net: nn.Module) -> None:
    """Load what ``keep``, a run or ``tools.lib.train.from_tflite`` wrote, into a net as deep or deeper."""
    net.load_state_dict(add_passive(net, torch.load(path, weights_only=True)["average"]))


def save(path: Path, state: dict[str, object]) -> None:
    """Write ``state`` whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
