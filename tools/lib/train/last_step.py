# SPDX-License-Identifier: Apache-2.0
"""A last step behind an int8 embedder: from its vector the mean of the region that it lies in is taken.

With u the unit vector, c the means and w = softmax(g * (c @ u)) the file answers u - b * (w @ c), float32; see
``tools.lib.train.centre`` for what that is good for.
"""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from agent.errors import ModelError

# Chosen on 3 000 FairFace faces that the means were not made of and half of LFW_DEV's people (models/README.md, Groups)
SHARPNESS = 15.0  # g: at 5 the region is nearly everybody, at 20 a person's own mean begins to be taken off
SHARE = 0.6  # b: with less the groups are less even, with 0.75 rare thresholds miss more
FLOAT, KIND, OPTIONS = schema.TensorType.FLOAT32, schema.BuiltinOperator, schema.BuiltinOptions

Matrix = NDArray[np.float32]


def centred(content: bytes, means: Matrix, *, sharpness: float = SHARPNESS, share: float = SHARE) -> bytes:
    """The embedder ``content`` (.tflite, int8 output (1, d)) with the last step, whose output is float32 of one name.

    ModelError when the file has another output than one int8 vector as long as ``means`` (k, d) are wide.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    (answer,) = graph.outputs
    named = graph.tensors[answer]
    if named.type != schema.TensorType.INT8 or list(named.shape) != [1, means.shape[1]]:
        raise ModelError(f"the model's output is no int8 vector of {means.shape[1]} numbers: it cannot be centred")
    head = _Head(model, graph)
    width, count = means.shape[1], len(means)
    real = head.tensor("real", width)
    unit = head.tensor("unit", width)
    near = head.tensor("near", count)
    weights = head.tensor("weights", count)
    mean = head.tensor("mean", width)
    out = head.tensor("centred", width)
    head.operator(KIND.DEQUANTIZE, 2, [answer], real)  # version 2: the first with int8
    head.operator(KIND.L2_NORMALIZATION, 1, [real], unit, OPTIONS.L2NormOptions, schema.L2NormOptionsT())
    head.product(unit, head.constant("means", means), near)
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = sharpness
    head.operator(KIND.SOFTMAX, 1, [near], weights, OPTIONS.SoftmaxOptions, softmax)
    head.product(weights, head.constant("means_back", np.ascontiguousarray(share * means.T)), mean)
    head.operator(KIND.SUB, 1, [unit, mean], out, OPTIONS.SubOptions, schema.SubOptionsT())
    graph.outputs = [out]
    for signature in model.signatureDefs or []:
        for entry in signature.outputs:
            entry.tensorIndex = out
    builder = flatbuffers.Builder(len(content) + 4 * means.nbytes)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _Head:
    """What is put behind the last operator of a graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model, self._graph = model, graph

    def tensor(self, name: str, width: int) -> int:
        return self._add(name, [1, width], 0)

    def constant(self, name: str, value: Matrix) -> int:
        buffer = schema.BufferT()
        buffer.data = value.astype(np.float32).view(np.uint8).reshape(-1)
        self._model.buffers.append(buffer)
        return self._add(name, list(value.shape), len(self._model.buffers) - 1)

    def product(self, vector: int, matrix: int, out: int) -> None:
        options = schema.FullyConnectedOptionsT()
        self.operator(KIND.FULLY_CONNECTED, 1, [vector, matrix, -1], out, OPTIONS.FullyConnectedOptions, options)

    def operator(
        self, kind: int, version: int, inputs: list[int], out: int, options_type: int = 0, options: object = None
    ) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kind
        code.version = version
        self._model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, [out]
        operator.builtinOptionsType, operator.builtinOptions = options_type, options
        self._graph.operators.append(operator)

    def _add(self, name: str, shape: list[int], buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"centring/{name}", shape, FLOAT, buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1
