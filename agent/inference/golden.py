# SPDX-License-Identifier: Apache-2.0
"""The golden self-test: one made picture, and what the model answered to it when it was listed.

On the runtime and kernels of the record an integer model must answer bit for bit: x86-64 and Arm agree there. Another
runtime rounds differently, so it is held to a tolerance, as are models that end in float.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.manifest import GoldenOutput, ModelEntry
from agent.inference.runtime import LITERT

BLOCK = 8  # pixels: blocks excite a net as edges do, single-pixel noise averages out in its first layer
SAMPLES = 32  # values kept of each output: enough to tell rounding from another function
# Deviation in quantisation steps that rounding may cause; LiteRT without XNNPACK and tflite_runtime 2.14 were seen to
# differ by 3 at the most and 1.2 on average, in the deepest layer of a 20-layer embedder.
MAX_STEPS = 12.0  # of any sampled value
MEAN_STEPS = 3.0  # on average
FLOAT_TOLERANCE = 1e-2  # of the largest sampled magnitude: fused multiplication and half-precision kernels
# The same on another runtime, where integer layers before a float end are some steps off: an embedder without XNNPACK
# differed by 0.11 at the most and 0.031 on average over 12 pictures; another picture by 0.19 and 0.065 at the least.
OTHER_RUNTIME_MOST, OTHER_RUNTIME_MEAN = 0.16, 0.05


def picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Make a picture, uint8 (height, width, 3): equal on every machine and library version (SHAKE-256, FIPS 202)."""
    rows, columns = -(-height // BLOCK), -(-width // BLOCK)
    stream = hashlib.shake_256(b"postern golden picture %d" % seed).digest(rows * columns * 3)
    blocks = np.frombuffer(stream, np.uint8).reshape(rows, columns, 3)
    return np.ascontiguousarray(blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width])


def record(raw: NDArray[Any]) -> GoldenOutput:
    """Condense to what the manifest keeps of one output."""
    return GoldenOutput(crc32=zlib.crc32(np.ascontiguousarray(raw).tobytes()), sample=_sample(raw, SAMPLES))


def check_golden(entry: ModelEntry, raw: dict[str, NDArray[Any]], runtime: str) -> bool:
    """Return True when ``raw`` is exactly the record, False when within tolerance; raises ModelError otherwise."""
    listed = entry.golden.runtime
    if listed.endswith(" xnnpack") and runtime.startswith(LITERT) and runtime.endswith(" plain"):
        raise ModelError(
            f"model {entry.name}: {runtime}: XNNPACK was not applied, so the model is slow and answers differently; "
            "make /proc/cpuinfo readable (no ProcSubset=pid in the service) and start again"
        )
    exact = True
    for name, golden in entry.golden.outputs.items():
        if zlib.crc32(raw[name].tobytes()) == golden.crc32:
            continue
        exact = False
        integer = entry.outputs[name].dtype != "float32"
        if integer and runtime == listed:
            raise ModelError(
                f"model {entry.name}: the self-test of output {name} gives another result than listed on the same "
                f"runtime ({runtime}); this machine computes wrongly or the manifest was altered"
            )
        if not _close(golden, raw[name], integer=integer, same=runtime == listed):
            raise ModelError(
                f"model {entry.name}: the self-test of output {name} is too far from the listed result; "
                f"{runtime} cannot be used for it (listed with {listed})"
            )
    return exact


def _close(golden: GoldenOutput, raw: NDArray[Any], *, integer: bool, same: bool) -> bool:
    listed = np.asarray(golden.sample)
    found = np.asarray(_sample(raw, len(listed)))
    if len(found) != len(listed):
        return False
    error = np.abs(found - listed)
    if integer:
        return bool(error.max() <= MAX_STEPS and error.mean() <= MEAN_STEPS)
    error = error / max(np.abs(listed).max(), 1e-3)
    if same:
        return bool(error.max() <= FLOAT_TOLERANCE)
    return bool(error.max() <= OTHER_RUNTIME_MOST and error.mean() <= OTHER_RUNTIME_MEAN)


def _sample(raw: NDArray[Any], count: int) -> tuple[float, ...]:
    flat = raw.reshape(-1)
    return tuple(float(v) for v in flat[np.linspace(0, flat.size - 1, min(count, flat.size)).astype(np.int64)])
