# SPDX-License-Identifier: Apache-2.0
"""What the core can do at best: layers of nothing but int8 multiply-accumulates, in the same runtime on one thread.

No single shape is the fastest on every processor, so the peak is that of the best of several: wide and narrow 1x1 and
3x3 convolutions and matrix products. The longer the sums, the less the rounding of each result costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

_IDENTIFIER = b"TFL3"


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer over ``side`` x ``side`` places: a convolution ``kernel`` wide, or with 0 a fully connected layer."""

    side: int
    inputs: int
    outputs: int
    kernel: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.side**2 * self.inputs * self.outputs * max(self.kernel, 1) ** 2

    def __str__(self) -> str:
        kind = f"{self.kernel}x{self.kernel} convolution" if self.kernel else "fully connected"
        return f"{kind}, {self.inputs} to {self.outputs} channels, {self.side}x{self.side}"


SHAPES = (
    Shape(24, 256, 256, 1),
    Shape(24, 1024, 64, 1),
    Shape(24, 1024, 256, 1),
    Shape(12, 2048, 256, 1),
    Shape(32, 64, 64, 1),
    Shape(7, 256, 256, 3),
    Shape(14, 128, 128, 3),
    Shape(28, 64, 64, 3),
    Shape(16, 1024, 512, 0),
)


def peak_case(shape: Shape, *, floating: bool = False) -> Callable[[], object]:
    """A call that runs the layer once, in int8 or in fp32."""
    interpreter = Interpreter(model_content=layer(shape, floating=floating), num_threads=1)
    interpreter.allocate_tensors()
    run: Callable[[], object] = interpreter.invoke
    return run


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


def layer(shape: Shape, *, floating: bool = False) -> bytes:
    """A .tflite file of one layer, int8 or fp32, with weights from a fixed seed."""
    random = np.random.default_rng(1)
    places = [1, shape.side, shape.side] if shape.kernel else [shape.side**2]
    window = [shape.kernel, shape.kernel] if shape.kernel else []
    weights = random.integers(-127, 128, (shape.outputs, *window, shape.inputs), np.int8)
    scales = shape.outputs if shape.kernel else 1  # a convolution's weights are quantised per channel
    bias = np.zeros(shape.outputs, np.int32)
    if floating:
        weights, bias = weights.astype(np.float32), bias.astype(np.float32)
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("input", [*places, shape.inputs], schema.TensorType.INT8, [0.05], 0),
        _tensor("weights", list(weights.shape), schema.TensorType.INT8, [0.01] * scales, 1),
        _tensor("bias", [shape.outputs], schema.TensorType.INT32, [0.05 * 0.01] * scales, 2),
        _tensor("output", [*places, shape.outputs], schema.TensorType.INT8, [0.2], 0),
    ]
    if floating:
        for tensor in graph.tensors:
            tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    operator.opcodeIndex = 0
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    if shape.kernel:
        options = schema.Conv2DOptionsT()
        options.strideW = options.strideH = 1
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
        kind, code.version = schema.BuiltinOperator.CONV_2D, 3  # the first with int8
    else:
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        kind, code.version = schema.BuiltinOperator.FULLY_CONNECTED, 4  # likewise
    code.builtinCode = code.deprecatedBuiltinCode = kind
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]

    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [_buffer(None), _buffer(weights), _buffer(bias)]
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
