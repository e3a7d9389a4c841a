# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph as a TensorFlow function, and that function as a .tflite file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import tensorflow as tf
from numpy.typing import NDArray

from agent.errors import ModelError, printable
from tools.lib.convert.graph import Graph, model_input
from tools.lib.convert.operators import OPERATORS, Tensor, Value, plain

# Float arithmetic in another order differs in the sixth digit; a wrongly read operation differs in the first.
MAX_DIFFERENCE = 1e-3  # of the largest value of an output
HALF = np.float32(128)  # the unit feeds (pixel - 128) / 128
CHECK_SEED = 1

Forward = Callable[[tf.Tensor], dict[str, tf.Tensor]]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a model expects: (pixel - mean) / std, one number per channel in the order of the model's colours."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool

    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the 1x1 convolution (1, 1, 3, 3) and bias (3,) from the unit's RGB in [-1, 1) to the model's input.

        One int8 weight per channel of the output is exact, so this costs a single rounding.
        """
        mean, std = np.array(self.mean), np.array(self.std)
        order = np.eye(3)[::-1] if self.bgr else np.eye(3)
        return (order * (HALF / std))[None, None].astype(np.float32), ((HALF - mean) / std).astype(np.float32)

    def apply(self, picture: Picture) -> NDArray[np.float32]:
        """Return an RGB picture (h, w, 3) as the model's own input (1, 3, h, w)."""
        return model_input(picture, np.array(self.mean), np.array(self.std), bgr=self.bgr)


def make_forward(
    graph: Graph, normalisation: Normalisation, names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Forward:
    """Return the function from the unit's picture, float32 (1, h, w, 3) in [-1, 1), to named outputs.

    ``names`` maps the names of the decoder to those of the graph; ``shapes`` holds the shapes to give some of them.
    """
    kernel, bias = normalisation.head()

    def forward(image: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.nn.bias_add(tf.nn.conv2d(image, kernel, 1, "VALID"), bias)
        values: dict[str, Value] = {**graph.constants, graph.input: Tensor(x, image=True), "": None}
        for node in graph.nodes:
            inputs = [values[name] for name in node.inputs]
            if node.kind == "Shape" and isinstance(inputs[0], Tensor):
                values[node.outputs[0]] = np.array(inputs[0].shape, np.int64)
            elif len(known := [value for value in inputs if not isinstance(value, Tensor)]) == len(inputs):
                values.update(zip(node.outputs, graph.fold(node, known), strict=False))
            elif node.kind in OPERATORS:
                values[node.outputs[0]] = OPERATORS[node.kind](node, inputs)
            else:
                raise ModelError(f"{node.kind} {node.outputs[0]} works on the picture, which cannot be converted")
        found = {name: plain(values[source]) for name, source in names.items()}
        return {name: tf.reshape(x, shapes[name]) if name in shapes else x for name, x in found.items()}

    return forward


class FloatModel:
    """The ONNX model itself on one thread of ONNX Runtime: what the int8 model is compared with."""

    def __init__(self, path: Path, normalisation: Normalisation, names: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._normalisation, self._names = normalisation, dict(names)
        self._input = self._session.get_inputs()[0].name

    def run(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """Return the outputs for an RGB picture, by the names of the decoder."""
        feeds = {self._input: self._normalisation.apply(picture)}
        try:
            values = self._session.run(list(self._names.values()), feeds)
        except Exception as error:  # ONNX Runtime's errors share no other class
            raise ModelError(
                f"ONNX Runtime cannot run the model: {printable(str(error))}; does it take this --size?"
            ) from error
        return dict(zip(self._names, values, strict=True))


def check_forward(forward: Forward, model: FloatModel, size: tuple[int, int]) -> float:
    """Return the largest difference to the ONNX model on a random picture, relative; raises ModelError if too large."""
    width, height = size
    picture = np.random.default_rng(CHECK_SEED).integers(0, 256, (height, width, 3), np.uint8)
    wanted = model.run(picture)
    found = forward(tf.constant((picture[None] - HALF) / HALF))
    differences = {
        name: float(np.abs(found[name].numpy().ravel() - value.ravel()).max() / max(np.abs(value).max(), 1e-6))
        for name, value in wanted.items()
    }
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= MAX_DIFFERENCE:
        raise ModelError(
            f"output {worst} differs by {differences[worst]:.2g} of its range from the ONNX model before any "
            "quantisation, so an operation was read wrongly; nothing was written"
        )
    return differences[worst]


def quantise(forward: Forward, size: tuple[int, int], pictures: Sequence[Picture]) -> bytes:
    """Return a .tflite file, int8 throughout (weights per channel), input ``image``.

    ``pictures``, uint8 RGB (h, w, 3), set the ranges of the activations.
    """
    width, height = size
    spec = tf.TensorSpec((1, height, width, 3), tf.float32, name="image")
    serve = tf.function(
        forward, input_signature=[spec], autograph=False
    )  # its branches are of the graph, not of values
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(tf.Module(), folder, signatures={"serving_default": serve.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            {"image": (picture[None].astype(np.float32) - HALF) / HALF} for picture in full_range(pictures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
        return bytes(converter.convert())


def full_range(pictures: Sequence[Picture]) -> list[Picture]:
    """Return the pictures, the first with one black and one white pixel.

    The range of the input is then that of a pixel: scale 1/128 and zero point 0, fed with its highest bit flipped.
    """
    first = pictures[0].copy()
    first[0, 0], first[0, 1] = 0, 255
    return [first, *pictures[1:]]
