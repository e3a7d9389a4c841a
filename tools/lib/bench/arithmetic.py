# SPDX-License-Identifier: Apache-2.0
"""What the peers' networks compute, and what this processor has for it."""

from __future__ import annotations

import json
import math
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# Instruction sets that decide which kernels run, as /proc/cpuinfo spells them: 8-bit dot products, and matrix units.
DOT_PRODUCTS = ("avx512_vnni", "avx_vnni", "asimddp")
MATRICES = ("amx_int8", "amx_bf16", "i8mm")
OTHERS = ("avx2", "avx512f", "asimd")


def instruction_sets(cpuinfo: str) -> str:
    """In words, from the text of /proc/cpuinfo: what there is, and which of the two that matter most is missing."""
    flags = _flags(cpuinfo)
    there = [name for name in (*OTHERS, *DOT_PRODUCTS, *MATRICES) if name in flags]
    for kind, names in (("8-bit dot product", DOT_PRODUCTS), ("matrix unit", MATRICES)):
        if not flags & set(names):
            there.append(f"no {kind}")
    return f"{platform.machine()}: {', '.join(there)}"


def has_dot_product(cpuinfo: str) -> bool:
    """Whether 8-bit numbers are multiplied four at a time; what is promised depends on it."""
    return bool(_flags(cpuinfo) & set(DOT_PRODUCTS))


def _flags(cpuinfo: str) -> set[str]:
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return next((set(value.split()) for name, _, value in lines if name.strip() in {"flags", "Features"}), set())


DOT_PRODUCT = has_dot_product(Path("/proc/cpuinfo").read_text())  # of this machine


def onnx_macs(model: Path, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of convolutions and matrix products for an input of ``shape``, as ONNX Runtime runs them."""
    import onnxruntime  # noqa: PLC0415 - only with peers

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # nodes keep their names
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = (event["args"] for event in events if event.get("cat") == "Node" and "output_type_shape" in event["args"])
    return sum(_macs(node) for node in nodes)


def _macs(node: dict[str, Any]) -> int:
    """Of one node: values of its output times what each is the sum of."""
    if node["op_name"] not in {"Conv", "Gemm", "MatMul"}:
        return 0
    inputs = [next(iter(one.values())) for one in node["input_type_shape"]]
    outputs = [next(iter(one.values())) for one in node["output_type_shape"]]
    summed = math.prod(inputs[1][1:]) if node["op_name"] == "Conv" else inputs[0][-1]
    return int(math.prod(outputs[0]) * summed)
