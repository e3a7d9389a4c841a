# SPDX-License-Identifier: Apache-2.0
"""The number type to train in: bfloat16 where the processor multiplies it itself, else float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def multiplies_bfloat16() -> bool:
    """Whether this processor has AMX or AVX-512 bf16; others emulate the type, at a tenth of float32's speed."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001


def mixed() -> AbstractContextManager[object]:
    """Autocast to bfloat16 where that is faster."""
    return torch.autocast("cpu", torch.bfloat16) if multiplies_bfloat16() else nullcontext()


def described() -> str:
    return "bfloat16" if multiplies_bfloat16() else "float32"
