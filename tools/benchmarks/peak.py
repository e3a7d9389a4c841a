# SPDX-License-Identifier: Apache-2.0
"""What the core can do at best: a convolution made of nothing but int8 multiply-accumulates, in the same runtime.

1x1 over many channels is a matrix product, the one shape that XNNPACK's kernels are fastest at.
"""

from __future__ import annotations

from collections.abc import Callable

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

SIDE, CHANNELS = 24, 256  # input and weights stay in the second-level cache of any supported core
_IDENTIFIER = b"TFL3"


def peak_case() -> tuple[Callable[[], object], int]:
    """A call that runs the convolution once, and its multiply-accumulates."""
    interpreter = Interpreter(model_content=_convolution(), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter.invoke, SIDE * SIDE * CHANNELS * CHANNELS


def macs_of(model: bytes) -> int:
    """Multiply-accumulates of one run of a .tflite file: convolutions, depthwise ones and fully connected layers."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    (graph,) = parsed.subgraphs
    total = 0
    for operator in graph.operators:
        code = parsed.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind not in _PER_OUTPUT:
            continue
        weights = graph.tensors[operator.inputs[1]].shape
        output = graph.tensors[operator.outputs[0]].shape
        total += int(np.prod(output)) * _PER_OUTPUT[kind](weights)
    return total


# Multiply-accumulates per value of the output, from the shape of the weights.
_PER_OUTPUT: dict[int, Callable[[np.ndarray], int]] = {
    schema.BuiltinOperator.CONV_2D: lambda weights: int(np.prod(weights[1:])),
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: lambda weights: int(np.prod(weights[1:3])),
    schema.BuiltinOperator.FULLY_CONNECTED: lambda weights: int(weights[-1]),
}


def _convolution() -> bytes:
    """A .tflite file of one int8 1x1 convolution with weights from a fixed seed."""
    random = np.random.default_rng(1)
    weights = random.integers(-127, 128, (CHANNELS, 1, 1, CHANNELS), np.int8)
    shape = [1, SIDE, SIDE, CHANNELS]
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("input", shape, schema.TensorType.INT8, [0.05], 0),
        _tensor("weights", list(weights.shape), schema.TensorType.INT8, [0.01] * CHANNELS, 1),
        _tensor("bias", [CHANNELS], schema.TensorType.INT32, [0.05 * 0.01] * CHANNELS, 2),
        _tensor("output", shape, schema.TensorType.INT8, [0.2], 0),
    ]
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = 1
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3  # int8, weights quantised per channel
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [_buffer(None), _buffer(weights), _buffer(np.zeros(CHANNELS, np.int32))]
    builder = flatbuffers.Builder(weights.nbytes + 8192)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(name: str, shape: list[int], kind: int, scales: list[float], buffer: int) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    quantisation = schema.QuantizationParametersT()
    quantisation.scale, quantisation.zeroPoint = scales, [0] * len(scales)
    tensor.quantization = quantisation
    return tensor


def _buffer(content: np.ndarray | None) -> schema.BufferT:
    buffer = schema.BufferT()
    if content is not None:
        buffer.data = content.view(np.uint8).reshape(-1)
    return buffer
