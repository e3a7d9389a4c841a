# SPDX-License-Identifier: Apache-2.0
"""Make the small models that the tests load. Needs the ``train`` extra; the results are in the repository.

python -m tests.assets.make_models

``toy-detector`` finds coloured squares on a dark ground: red ones of 8 pixels, green ones of 16, blue ones of 32, each
aligned to its grid. A cell scores by how much its mean is of its colour; the geometry is constant, with landmarks
in the proportions of the ArcFace template. ``toy-embedder`` projects the colours of an 8x8 grid on 128
fixed random directions. The others are hostile or foreign: an output for age, two entry points, float32.
"""

from __future__ import annotations

import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import tensorflow as tf

from tools.lib.manifest import add_entry, build_entry
from tools.lib.train.quantise import convert

OUT = Path(__file__).parent / "models"
WIDTH, HEIGHT = 160, 96  # pixels: five by three cells at stride 32
COLOUR = {8: 0, 16: 1, 32: 2}  # channel that a stride looks for
FACTS = {
    "licence": "Apache-2.0",
    "training_data": "none: the weights are written by hand or drawn from a seeded generator",
    "created": date(2026, 1, 5),
}
# A face of three strides around the cell's centre; landmarks as in the 112-pixel template.
REACH = 1.5
LANDMARKS = (np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]]) - 56) / 56 * REACH


def detector(x: tf.Tensor) -> dict[str, tf.Tensor]:
    outputs = {}
    for stride in (8, 16, 32):
        mean = tf.nn.avg_pool2d(x, stride, stride, "VALID")
        # pixels are in [-1, 1): a grey one weighs 0, one of the pure colour 2, which makes logits of -8 and 8
        weights = np.full((1, 1, 3, 1), -4, np.float32)
        weights[0, 0, COLOUR[stride]] = 8
        logit = tf.nn.conv2d(mean, weights, 1, "VALID") - 8.0
        constant = np.float32([REACH] * 4 + LANDMARKS.ravel().tolist())
        # a trace of the picture keeps the converter from folding the geometry into a constant
        trace = tf.nn.conv2d(mean, np.full((1, 1, 3, 14), 1e-3, np.float32), 1, "VALID")
        outputs[f"score_{stride}"] = logit
        outputs[f"geometry_{stride}"] = trace + constant
    return outputs


def embedder(cells: int) -> object:
    directions = np.random.default_rng(7).normal(0, 0.1, (cells * cells * 3, 128)).astype(np.float32)

    def forward(x: tf.Tensor) -> dict[str, tf.Tensor]:
        pooled = tf.nn.avg_pool2d(x, 112 // cells, 112 // cells, "VALID")
        return {"embedding": tf.reshape(pooled, (1, cells * cells * 3)) @ directions}

    return forward


def with_age(x: tf.Tensor) -> dict[str, tf.Tensor]:
    mean = tf.reduce_mean(x, (1, 2))
    return {"embedding": mean @ np.ones((3, 128), np.float32), "age": mean @ np.ones((3, 1), np.float32)}


def scenes(width: int, height: int) -> list[np.ndarray]:
    """Pictures that span the full range of pixels, pure colours among them."""
    rng = np.random.default_rng(3)
    pictures = []
    for _ in range(12):
        blocks = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        picture = blocks.repeat(8, 0).repeat(8, 1)
        picture[: height // 2] = 0
        for channel in range(3):
            picture[: height // 2, channel * width // 3 : (channel + 1) * width // 3, channel] = 255
        picture[height // 2 : height // 2 + 8, :8] = 255
        pictures.append(picture)
    return pictures


def two_entry_points() -> bytes:
    module = tf.Module()
    spec = tf.TensorSpec((1, 112, 112, 3), tf.float32, name="image")
    functions = {
        name: tf.function(with_age, input_signature=[spec]).get_concrete_function() for name in ("first", "second")
    }
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=functions)
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["first", "second"]).convert())


def main() -> None:
    manifest = OUT / "manifest.yaml"
    OUT.mkdir(exist_ok=True)
    models = {
        "toy-detector": ("postern", convert(detector, (HEIGHT, WIDTH, 3), scenes(WIDTH, HEIGHT))),
        "toy-embedder": ("embedding", convert(embedder(8), (112, 112, 3), scenes(112, 112))),
        "toy-embedder-float": ("embedding", convert(embedder(4), (112, 112, 3), None)),
    }
    for name, (decoder, content) in models.items():
        extra = {"score_threshold": 0.6} if decoder == "postern" else {}
        add_entry(manifest, build_entry(content, f"{name}.tflite", name, decoder, **FACTS, **extra), content)
    (OUT / "hostile-age.tflite").write_bytes(convert(with_age, (112, 112, 3), scenes(112, 112)))
    (OUT / "hostile-two-entry-points.tflite").write_bytes(two_entry_points())


if __name__ == "__main__":
    main()
