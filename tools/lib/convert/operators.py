# SPDX-License-Identifier: Apache-2.0
"""ONNX operations as TensorFlow operations (onnx.ai/onnx/operators), pictures with channels last.

A ``Tensor`` remembers whether TensorFlow holds it as (n, h, w, c) while ONNX means (n, c, h, w). Layers keep that
order; only what looks at the order itself (Reshape, Flatten, MatMul) turns a picture back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from agent.errors import ModelError
from tools.lib.convert import layout
from tools.lib.convert.graph import Array, Node

RELU6 = 6.0


@dataclass(frozen=True, slots=True)
class Tensor:
    """``data`` in the order of ONNX, or as (n, h, w, c) when ``image``."""

    data: tf.Tensor
    image: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As ONNX sees it."""
        shape = tuple(self.data.shape)
        return tuple(shape[axis] for axis in layout.TO_NCHW) if self.image else shape


Value = Tensor | Array | None  # computed, known beforehand, or left out
Operator = Callable[[Node, list[Value]], Tensor]


def plain(value: Value) -> tf.Tensor:
    """Return a value in the order of ONNX."""
    if not isinstance(value, Tensor):
        return tf.constant(value)
    if not value.image:
        return value.data
    _, height, width, channels = value.data.shape
    if height * width == 1 or channels == 1:  # both orders are the same bytes
        return tf.reshape(value.data, value.shape)
    return tf.transpose(value.data, layout.TO_NCHW)


def picture(value: Value) -> tf.Tensor:
    """Return a value of four dimensions as (n, h, w, c)."""
    if isinstance(value, Tensor) and value.image:
        return value.data
    return tf.transpose(plain(value), layout.TO_NHWC)


def known(node: Node, value: Value) -> Array:
    """Return a constant input; raises ModelError when the model computes it."""
    if value is None or isinstance(value, Tensor):
        raise ModelError(f"{node.kind} {node.outputs[0]}: its weights or sizes must be constants to be converted")
    return value


def conv(node: Node, values: list[Value]) -> Tensor:
    x, weights = picture(values[0]), known(node, values[1]).astype(np.float32)
    groups, channels = node.attributes.get("group", 1), int(x.shape[-1])
    x, mode, strides, dilations = _window(node, x, weights.shape[2:])
    if groups == 1:
        x = tf.nn.conv2d(x, layout.conv_kernel(weights), strides, mode, dilations=dilations)
    elif groups == channels:
        kernel = layout.depthwise_kernel(weights, channels)
        x = tf.nn.depthwise_conv2d(x, kernel, [1, *strides, 1], mode, dilations=dilations)
    else:  # as many small convolutions: LiteRT has no grouped one in int8
        parts = zip(tf.split(x, groups, -1), np.split(weights, groups), strict=True)
        kernels = [(part, layout.conv_kernel(kernel)) for part, kernel in parts]
        x = tf.concat([tf.nn.conv2d(p, kernel, strides, mode, dilations=dilations) for p, kernel in kernels], -1)
    if len(values) > 2 and values[2] is not None:
        x = tf.nn.bias_add(x, known(node, values[2]).astype(np.float32))
    return Tensor(x, image=True)


def max_pool(node: Node, values: list[Value]) -> Tensor:
    x = picture(values[0])
    window = node.attributes["kernel_shape"]
    x, mode, strides, _ = _window(node, x, window, repeat_edge=True)
    return Tensor(tf.nn.max_pool2d(x, window, strides, mode), image=True)


def average_pool(node: Node, values: list[Value]) -> Tensor:
    x = picture(values[0])
    window = node.attributes["kernel_shape"]
    _, mode, strides, _ = _window(node, x, window)
    if mode != "VALID":
        raise ModelError(f"AveragePool {node.outputs[0]} pads its input, which cannot be converted")
    return Tensor(tf.nn.avg_pool2d(x, window, strides, mode), image=True)


def _window(
    node: Node, x: tf.Tensor, window: Sequence[int], *, repeat_edge: bool = False
) -> tuple[tf.Tensor, str, list[int], list[int]]:
    """Pad ``x`` where TensorFlow cannot; return it with the padding mode, strides and dilations."""
    strides = list(node.attributes.get("strides", [1, 1]))
    dilations = list(node.attributes.get("dilations", [1, 1]))
    sizes = [int(size) for size in x.shape[1:3]]
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True)]
    pads = layout.onnx_pads(
        node.attributes.get("pads", []), node.attributes.get("auto_pad", "NOTSET"), sizes, reach, strides
    )
    if node.attributes.get("ceil_mode", 0):
        left = [(n + sum(p) - r) % s for n, p, r, s in zip(sizes, pads, reach, strides, strict=True)]
        if any(left):
            raise ModelError(f"{node.kind} {node.outputs[0]}: ceil_mode with a rest of {left} pixels is not supported")
    mode = layout.padding_mode(sizes, reach, strides, pads)
    if mode == "EXPLICIT":
        # A repeated edge changes no maximum while the window reaches the pixels that it repeats.
        if repeat_edge and any(2 * max(pad) > r for pad, r in zip(pads, reach, strict=True)):
            raise ModelError(f"{node.kind} {node.outputs[0]}: padding {pads} of windows {reach} is not supported")
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], mode="SYMMETRIC" if repeat_edge else "CONSTANT")
        mode = "VALID"
    return x, mode, strides, dilations


def batch_normalization(node: Node, values: list[Value]) -> Tensor:
    gamma, beta, mean, variance = (known(node, value).astype(np.float64) for value in values[1:5])
    scale = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    factor, shift = scale.astype(np.float32), (beta - mean * scale).astype(np.float32)
    x = values[0]
    if isinstance(x, Tensor) and len(x.shape) == layout.IMAGE_RANK:
        return Tensor(picture(x) * factor + shift, image=True)
    return Tensor(plain(x) * factor + shift)


def clip(node: Node, values: list[Value]) -> Tensor:
    low, high = (
        float(known(node, values[place])) if len(values) > place and values[place] is not None else default
        for place, default in ((1, node.attributes.get("min", -np.inf)), (2, node.attributes.get("max", np.inf)))
    )
    if (low, high) == (0, RELU6):
        return _each(values[0], tf.nn.relu6)
    return _each(values[0], lambda x: tf.minimum(tf.maximum(x, np.float32(low)), np.float32(high)))


def prelu(node: Node, values: list[Value]) -> Tensor:
    slope = known(node, values[1]).astype(np.float32)
    x = values[0]
    if isinstance(x, Tensor) and len(x.shape) == layout.IMAGE_RANK:
        data, factor = picture(x), layout.nhwc_constant(slope)[0]
        return Tensor(tf.nn.relu(data) + -factor * tf.nn.relu(-data), image=True)  # LiteRT fuses this to one PRELU
    data = plain(x)
    return Tensor(tf.nn.relu(data) + -slope * tf.nn.relu(-data))


def leaky_relu(node: Node, values: list[Value]) -> Tensor:
    return _each(values[0], lambda x: tf.nn.leaky_relu(x, node.attributes.get("alpha", 0.01)))


def _each(value: Value, function: Callable[[tf.Tensor], tf.Tensor]) -> Tensor:
    if isinstance(value, Tensor):
        return Tensor(function(value.data), value.image)
    return Tensor(function(tf.constant(value)))


def unary(function: Callable[[tf.Tensor], tf.Tensor]) -> Operator:
    return lambda _node, values: _each(values[0], function)


def binary(function: Callable[[Any, Any], tf.Tensor]) -> Operator:
    def operator(_node: Node, values: list[Value]) -> Tensor:
        computed = [value for value in values if isinstance(value, Tensor)]
        if any(value.image for value in computed) and all(len(v.shape) == layout.IMAGE_RANK for v in computed):
            sides = [picture(v) if isinstance(v, Tensor) else layout.nhwc_constant(np.asarray(v)) for v in values]
            return Tensor(function(*sides), image=True)
        return Tensor(function(*map(plain, values)))

    return operator


def resize(node: Node, values: list[Value]) -> Tensor:
    x = values[0]
    shape = x.shape if isinstance(x, Tensor) else known(node, x).shape
    if node.attributes.get("mode", "nearest") != "nearest":
        raise ModelError(f"{node.kind} {node.outputs[0]} interpolates; only the mode nearest converts")
    given = [value for value in values[1:] if value is not None and known(node, value).size == layout.IMAGE_RANK]
    scales = known(node, given[-1]) if given else np.empty(0)
    if len(values) == 4 and values[3] is not None:
        scales = scales / np.array(shape)
    factor = layout.whole_factor(scales.tolist())
    size = [shape[2] * factor, shape[3] * factor]
    return Tensor(tf.raw_ops.ResizeNearestNeighbor(images=picture(x), size=size), image=True)


def transpose(node: Node, values: list[Value]) -> Tensor:
    x = values[0]
    rank = len(x.shape) if isinstance(x, Tensor) else known(node, x).ndim
    order = tuple(node.attributes.get("perm", range(rank)[::-1]))
    if isinstance(x, Tensor) and x.image and order == layout.TO_NHWC:
        return Tensor(x.data)
    if isinstance(x, Tensor) and not x.image and order == layout.TO_NCHW:
        return Tensor(x.data, image=True)
    return Tensor(tf.transpose(plain(x), order))


def reshape(node: Node, values: list[Value]) -> Tensor:
    x = plain(values[0])
    return Tensor(tf.reshape(x, layout.reshape(tuple(x.shape), known(node, values[1]).tolist())))


def flatten(node: Node, values: list[Value]) -> Tensor:
    x = plain(values[0])
    axis = node.attributes.get("axis", 1)
    rows = int(np.prod(x.shape[: axis if axis >= 0 else len(x.shape) + axis]))
    return Tensor(tf.reshape(x, (rows, -1)))


def squeeze(node: Node, values: list[Value]) -> Tensor:
    x, axes = plain(values[0]), _axes(node, values)
    return Tensor(tf.squeeze(x, axes or None))


def unsqueeze(node: Node, values: list[Value]) -> Tensor:
    x, axes = plain(values[0]), _axes(node, values)
    rank = len(x.shape) + len(axes)
    sizes = iter(x.shape)
    places = {axis % rank for axis in axes}
    return Tensor(tf.reshape(x, [1 if place in places else next(sizes) for place in range(rank)]))


def _axes(node: Node, values: list[Value]) -> list[int]:
    if len(values) > 1 and values[1] is not None:
        return [int(axis) for axis in known(node, values[1])]
    return list(node.attributes.get("axes", []))


def concat(node: Node, values: list[Value]) -> Tensor:
    axis = node.attributes["axis"]
    if all(isinstance(value, Tensor) and value.image for value in values):
        return Tensor(tf.concat([picture(value) for value in values], layout.nhwc_axis(axis)), image=True)
    return Tensor(tf.concat([plain(value) for value in values], axis))


def gemm(node: Node, values: list[Value]) -> Tensor:
    a, b = plain(values[0]), known(node, values[1]).astype(np.float32)
    a = tf.transpose(a) if node.attributes.get("transA", 0) else a
    b = b.T if node.attributes.get("transB", 0) else b
    x = tf.matmul(a, b * np.float32(node.attributes.get("alpha", 1.0)))
    if len(values) > 2 and values[2] is not None:
        x += known(node, values[2]).astype(np.float32) * np.float32(node.attributes.get("beta", 1.0))
    return Tensor(x)


def matmul(_node: Node, values: list[Value]) -> Tensor:
    return Tensor(tf.matmul(plain(values[0]), plain(values[1])))


def global_average_pool(_node: Node, values: list[Value]) -> Tensor:
    return Tensor(tf.reduce_mean(picture(values[0]), (1, 2), keepdims=True), image=True)


OPERATORS: dict[str, Operator] = {
    "Add": binary(tf.add),
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "Div": binary(tf.divide),
    "Dropout": unary(tf.identity),  # does nothing once trained
    "Flatten": flatten,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "Identity": unary(tf.identity),
    "LeakyRelu": leaky_relu,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Mul": binary(tf.multiply),
    "PRelu": prelu,
    "Relu": unary(tf.nn.relu),
    "Reshape": reshape,
    "Resize": resize,
    "Sigmoid": unary(tf.sigmoid),
    "Squeeze": squeeze,
    "Sub": binary(tf.subtract),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Upsample": resize,
}
