# SPDX-License-Identifier: Apache-2.0
"""Folded layers to a fully int8 .tflite with TensorFlow's converter (int8 weights per channel, uint8 in, int8 out)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tools.train.fold import Block, Conv, Layer


def apply_conv(x: tf.Tensor, conv: Conv, *, act: bool) -> tf.Tensor:
    if conv.pad and conv.stride > 1:  # TensorFlow's SAME pads only one side there; the nets were trained with both
        x = tf.pad(x, [[0, 0], [conv.pad, conv.pad], [conv.pad, conv.pad], [0, 0]])
        padding = "VALID"
    else:
        padding = "SAME" if conv.pad else "VALID"
    if conv.depthwise:
        kernel = conv.kernel.transpose(0, 1, 3, 2)
        x = tf.nn.depthwise_conv2d(x, kernel, [1, conv.stride, conv.stride, 1], padding)
    else:
        x = tf.nn.conv2d(x, conv.kernel, conv.stride, padding)
    x = tf.nn.bias_add(x, conv.bias)
    return tf.nn.relu6(x) if act else x


def apply(x: tf.Tensor, layers: Iterable[Layer]) -> tf.Tensor:
    for layer in layers:
        if isinstance(layer, Block):
            skip = x if layer.shortcut is None else apply_conv(x, layer.shortcut, act=False)
            inner = apply_conv(apply_conv(x, layer.first, act=True), layer.second, act=False)
            x = tf.nn.relu6(inner + skip)
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
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.int8
        return bytes(converter.convert())
