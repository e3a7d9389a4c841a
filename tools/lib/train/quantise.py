# SPDX-License-Identifier: Apache-2.0
"""Folded layers to a fully int8 .tflite with TensorFlow's converter (int8 weights per channel, int8 in and out)."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tools.lib.train.fold import Block, Conv, Layer
from tools.lib.train.rewrite import ONE_PASS_TAPS, in_parts, side_by_side

COLOURS = 3


def apply_conv(x: tf.Tensor, conv: Conv, *, act: bool) -> tf.Tensor:
    stem = None
    if conv.stride > 1 and conv.kernel.shape[2] == COLOURS and not conv.depthwise:
        stem = side_by_side(conv.kernel, stride=conv.stride, pad=conv.pad, width=x.shape[2])
    if stem is not None:
        x = tf.reshape(x, (1, x.shape[1], x.shape[2] // conv.stride, conv.stride * COLOURS))
        if conv.pad:
            x = tf.pad(x, [[0, 0], [conv.pad, conv.pad], [stem.left, stem.right], [0, 0]])
        x = tf.nn.conv2d(x, stem.kernel, [1, conv.stride, 1, 1], "VALID")
    else:
        x = _plain_conv(x, conv)
    x = tf.nn.bias_add(x, conv.bias)
    return tf.nn.relu6(x) if act else x


def _plain_conv(x: tf.Tensor, conv: Conv) -> tf.Tensor:
    if conv.pad and conv.stride > 1:  # TensorFlow's SAME pads only one side there; the nets were trained with both
        x = tf.pad(x, [[0, 0], [conv.pad, conv.pad], [conv.pad, conv.pad], [0, 0]])
        padding = "VALID"
    else:
        padding = "SAME" if conv.pad else "VALID"
    if conv.depthwise:
        kernel = conv.kernel.transpose(0, 1, 3, 2)
        return tf.nn.depthwise_conv2d(x, kernel, [1, conv.stride, conv.stride, 1], padding)
    return tf.nn.conv2d(x, conv.kernel, conv.stride, padding)


def _is_large_pool(x: tf.Tensor, conv: Conv, after: Conv) -> bool:
    """Whether ``conv`` pools the whole map with too many taps, linearly, before a 1x1 convolution."""
    taps = conv.kernel.shape[0] * conv.kernel.shape[1]
    covers = conv.depthwise and not conv.pad and conv.kernel.shape[:2] == tuple(x.shape[1:3])
    pointwise = not after.depthwise and after.kernel.shape[:2] == (1, 1)
    return covers and taps > ONE_PASS_TAPS and not conv.act and pointwise


def _pool(x: tf.Tensor, conv: Conv, after: Conv) -> tf.Tensor:
    """The depthwise ``conv`` over the whole map in parts, and ``after`` over their concatenation, which adds them."""
    pool = in_parts(conv.kernel[:, :, 0], conv.bias)
    taps, width = pool.kernel.shape
    x = tf.pad(tf.reshape(x, (1, -1, 1, x.shape[3])), [[0, 0], [0, pool.pad], [0, 0], [0, 0]])
    x = tf.nn.depthwise_conv2d(tf.reshape(x, (1, taps, 1, width)), pool.kernel[:, None, :, None], [1, 1, 1, 1], "VALID")
    x = tf.nn.bias_add(x, pool.bias)
    return apply_conv(x, after._replace(kernel=np.tile(after.kernel, (1, 1, pool.parts, 1))), act=after.act)


def apply(x: tf.Tensor, layers: Iterable[Layer]) -> tf.Tensor:
    waiting = deque(layers)
    while waiting:
        layer = waiting.popleft()
        if isinstance(layer, Block):
            skip = x if layer.shortcut is None else apply_conv(x, layer.shortcut, act=False)
            inner = apply_conv(apply_conv(x, layer.first, act=True), layer.second, act=False)
            x = tf.nn.relu6(inner + skip)
        elif waiting and isinstance(after := waiting[0], Conv) and _is_large_pool(x, layer, after):
            x = _pool(x, layer, after)
            waiting.popleft()
        else:
            x = apply_conv(x, layer, act=layer.act)
    return x


def convert(
    forward: Callable[[tf.Tensor], dict[str, tf.Tensor]],
    shape: tuple[int, int, int],
    representative: Iterable[np.ndarray] | None,
) -> bytes:
    """``forward`` maps float32 (1, h, w, c) in [-1, 1) to named outputs.

    ``representative`` yields uint8 pictures of ``shape`` that set the activation ranges; None keeps float32.
    """
    module = tf.Module()
    spec = tf.TensorSpec((1, *shape), tf.float32, name="image")
    serve = tf.function(forward, input_signature=[spec])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": serve.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if representative is not None:
            pictures = representative
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: (
                {"image": ((p[None].astype(np.float32) - 128) / 128)} for p in pictures
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            # With uint8 the file begins with a conversion, a sixth of the detector's time; the agent flips a bit.
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        return bytes(converter.convert())
