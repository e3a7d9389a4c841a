# SPDX-License-Identifier: Apache-2.0
"""Where to train and in which number type: on a GPU if there is one, and in what the processor multiplies itself."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

CPU = torch.device("cpu")


def best_device(*, gpu: bool | None = None) -> torch.device:
    """The GPU of this machine, else the processor; ``gpu`` says for a test which of them there is."""
    return torch.device("cuda") if (torch.cuda.is_available() if gpu is None else gpu) else CPU


def multiplies_bfloat16(device: torch.device = CPU) -> bool:
    """Whether this processor has AMX or AVX-512 bf16, or this GPU the type: others emulate it, ten times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    return device.type == "cpu" and bool(has)


def mixed(device: torch.device = CPU) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16) if multiplies_bfloat16(device) else nullcontext()


def described(device: torch.device = CPU) -> str:
    kind = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return f"{kind} on {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'the processor'}"
