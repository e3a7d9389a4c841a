# SPDX-License-Identifier: Apache-2.0
"""Another model becomes int8 only when its loss was measured and is small; otherwise nothing is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ModelError
from agent.inference.engine import load_engine
from tests.conftest import shared_folder
from tools.lib.convert import layout, loss, material, outputs

MODELS = Path(__file__).parents[2] / "models" / "manifest.yaml"
RANDOM = np.random.default_rng(7)
EXTRA = ("tensorflow", "onnx", "onnxruntime")
heavy = pytest.mark.filterwarnings("ignore")  # TensorFlow's own imports warn


def need_extra() -> None:
    for module in EXTRA:
        pytest.importorskip(module, reason="needs the extra convert")


# --- the order of axes, padding and shapes ------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 64), st.integers(1, 7), st.integers(1, 3))
def test_same_padding_gives_one_answer_for_every_stride(size: int, window: int, stride: int) -> None:
    before, after = layout.same_padding(size, window, stride)
    assert 0 <= after - before <= 1
    if window >= stride:
        assert (size + before + after - window) // stride + 1 == math.ceil(size / stride)


def test_padding_on_both_sides_of_a_strided_layer_is_not_taken_for_tensorflows() -> None:
    assert layout.padding_mode((112, 112), (3, 3), (1, 1), [(1, 1), (1, 1)]) == "SAME"
    assert layout.padding_mode((112, 112), (3, 3), (2, 2), [(1, 1), (1, 1)]) == "EXPLICIT"
    assert layout.padding_mode((112, 112), (3, 3), (2, 2), [(0, 1), (0, 1)]) == "SAME"
    assert layout.padding_mode((7, 7), (7, 7), (1, 1), [(0, 0), (0, 0)]) == "VALID"


def test_automatic_padding_puts_the_odd_pixel_where_its_name_says() -> None:
    upper, lower = (layout.onnx_pads([], f"SAME_{side}", (8, 8), (3, 3), (2, 2)) for side in ("UPPER", "LOWER"))
    assert upper == [(0, 1), (0, 1)]
    assert lower == [(1, 0), (1, 0)]
    assert layout.onnx_pads([1, 2, 3, 4], "NOTSET", (8, 8), (3, 3), (1, 1)) == [(1, 3), (2, 4)]


def test_constants_broadcast_over_the_same_pixels_in_both_orders() -> None:
    picture = RANDOM.random((1, 5, 3, 4))
    for constant in (RANDOM.random((5, 1, 1)), RANDOM.random((1, 5, 3, 4)), RANDOM.random(4), np.float64(2)):
        there = picture.transpose(layout.TO_NHWC) + layout.nhwc_constant(np.asarray(constant))
        np.testing.assert_array_equal(there.transpose(layout.TO_NCHW), picture + constant)
    assert [layout.nhwc_axis(axis) for axis in (0, 1, 2, 3, -1, -3)] == [0, 3, 1, 2, 2, 3]


def test_reshaping_follows_zero_and_minus_one() -> None:
    assert layout.reshape((1, 4, 6), (0, -1)) == (1, 24)
    assert layout.reshape((1, 4, 6), (0, 0, 2, 3)) == (1, 4, 2, 3)
    with pytest.raises(ModelError, match="does not fit"):
        layout.reshape((1, 4, 6), (1, 5, 5))


@pytest.mark.parametrize("scales", [[1, 1, 1.5, 1.5], [1, 1, 2, 4], [1, 2, 2, 2], [2, 2], []])
def test_enlarging_that_is_no_repetition_is_refused(scales: list[float]) -> None:
    with pytest.raises(ModelError, match="only enlarging"):
        layout.whole_factor(scales or [0])


# --- which output is which ----------------------------------------------------------------------------------------

SCRFD = {
    f"{400 + 10 * place + int(math.log2(stride))}": ((640 // stride) ** 2 * 2, columns)
    for place, columns in enumerate((1, 4, 10))
    for stride in (8, 16, 32)
}


def test_numbered_outputs_of_scrfd_are_told_by_their_sizes() -> None:
    names = outputs.name_outputs("scrfd", SCRFD, {}, (640, 640))
    assert len(names) == 9
    assert SCRFD[names["kps_16"]] == (3200, 10)
    with pytest.raises(ModelError, match="which output is"):
        outputs.name_outputs("scrfd", SCRFD, {}, (320, 320))


def test_a_lone_output_is_the_embedding_and_two_are_ambiguous() -> None:
    assert outputs.name_outputs("embedding", {"683": (1, 128)}, {}, (112, 112)) == {"embedding": "683"}
    two = {"683": (1, 128), "age": (1, 1)}
    with pytest.raises(ModelError, match="--output embedding="):
        outputs.name_outputs("embedding", two, {}, (112, 112))
    assert outputs.name_outputs("embedding", two, {"embedding": "683"}, (112, 112)) == {"embedding": "683"}


def test_outputs_that_no_decoder_has_or_the_model_lacks_are_refused() -> None:
    with pytest.raises(ModelError, match="no output 'age'"):
        outputs.name_outputs("embedding", {"a": (1, 128)}, {"age": "a"}, (112, 112))
    with pytest.raises(ModelError, match="the model has no output 'b'"):
        outputs.name_outputs("embedding", {"a": (1, 128)}, {"embedding": "b"}, (112, 112))
    same = dict.fromkeys((f"{head}_{s}" for head in ("cls", "obj", "bbox", "kps") for s in (8, 16, 32)), "a")
    with pytest.raises(ModelError, match="the same one"):
        outputs.name_outputs("yunet", {"a": (1, 4)}, same, (320, 320))


# --- pictures and the loss ----------------------------------------------------------------------------------------


def test_no_picture_sets_ranges_and_measures_the_loss() -> None:
    ranges, held_out = material.split(range(100))
    assert not set(ranges) & set(held_out)
    assert (len(ranges), len(held_out)) == (80, 20)
    with pytest.raises(ModelError, match="too few"):
        material.split(range(material.MIN_PICTURES - 1))


def test_a_picture_that_is_not_aligned_is_refused_as_such(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (250, 250)).save(tmp_path / "face.png")
    with pytest.raises(ModelError, match="not aligned"):
        material.crop_of(tmp_path / "face.png", None)


@pytest.mark.parametrize("value", [0.031, math.inf, math.nan])
def test_a_loss_above_its_limit_is_refused(value: float) -> None:
    within = loss.Limit("the one", 0.01, 0.03)
    loss.check_limits([within])
    with pytest.raises(ModelError, match=r"the other is .* Nothing was written") as refused:
        loss.check_limits([within, loss.Limit("the other", value, 0.03)])
    assert "the one" not in str(refused.value)
    assert refused.value.exit_status == 2


class Twin:
    """A float model that answers what the int8 one does, plus noise."""

    def __init__(self, name: str, noise: float = 0.0) -> None:
        self.engine, self._noise = load_engine(MODELS, name), noise

    def run(self, picture: np.ndarray) -> dict[str, Any]:
        raw = self.engine.run(picture)
        real = {name: self.engine.dequantise(name, value) for name, value in raw.items()}
        return {name: value + self._noise * RANDOM.standard_normal(value.shape) for name, value in real.items()}


def test_an_embedder_loses_nothing_against_itself_and_is_refused_against_noise() -> None:
    crops = list(RANDOM.integers(0, 256, (4, 112, 112, 3), np.uint8))
    same = Twin("embedder")
    figures, limit = loss.Embedders(same.engine, same).cosine(crops, loss.MAX_COSINE_LOSS)
    assert figures["mean_cosine"] == pytest.approx(1)
    loss.check_limits([limit])
    other = Twin("embedder", noise=1.0)
    _, limit = loss.Embedders(other.engine, other).cosine(crops, loss.MAX_COSINE_LOSS)
    with pytest.raises(ModelError, match="mean cosine"):
        loss.check_limits([limit])


def test_a_detector_is_not_judged_on_pictures_without_faces() -> None:
    twin = Twin("detector-320x240")
    empty = [np.full((240, 320, 3), 128, np.uint8)] * 2
    with pytest.raises(ModelError, match="finds 0 faces"):
        loss.compare_detectors(twin.engine, twin, empty, loss.MAX_FACE_LOSS, loss.MAX_LANDMARK_LOSS)


# --- the graph, with the extra ------------------------------------------------------------------------------------


def save_model(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], size: int = 16, opset: int = 13) -> Path:
    onnx = pytest.importorskip("onnx", reason="needs the extra convert")
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    picture = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, size, size))
    answer = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "g", [picture], [answer], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))  # outputs need a shape
    return path


@heavy
def test_an_operation_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra convert")
    from tools.lib.convert.graph import read_graph  # noqa: PLC0415

    path = save_model(tmp_path / "m.onnx", [onnx.helper.make_node("Softsign", ["x"], ["y"])], {})
    with pytest.raises(ModelError, match=r"uses Softsign, .* supported are .*Conv"):
        read_graph(path, frozenset({"Conv"}))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        read_graph(tmp_path / "bad.onnx", frozenset())


@heavy
@pytest.mark.parametrize("opset", [11, 13])
def test_what_is_known_beforehand_is_computed_by_the_version_that_the_model_was_written_for(
    opset: int, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra convert")
    from tools.lib.convert.graph import read_graph  # noqa: PLC0415

    known, axes = {"k": np.array(7)}, {"axes": np.array([0])}
    new = onnx.helper.make_node("Unsqueeze", ["k", "axes"], ["z"])
    old = onnx.helper.make_node("Unsqueeze", ["k"], ["z"], axes=[0])
    nodes = [new if opset == 13 else old, onnx.helper.make_node("Relu", ["x"], ["y"])]
    path = save_model(tmp_path / "m.onnx", nodes, known | (axes if opset == 13 else {}), opset=opset)
    graph = read_graph(path, frozenset({"Relu", "Unsqueeze"}))
    (folded,) = graph.fold(graph.nodes[0], [graph.constants[name] for name in graph.nodes[0].inputs])
    np.testing.assert_array_equal(folded, [7])


def weights(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


CHAINS: dict[str, tuple[list[tuple[str, list[str], dict[str, Any]]], dict[str, np.ndarray]]] = {
    "strided, padded, with bias": (
        [("Conv", ["w", "b"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}), ("Relu", [], {})],
        {"w": weights(8, 3, 3, 3), "b": weights(8)},
    ),
    "depthwise": ([("Conv", ["w"], {"group": 3, "pads": [1, 1, 1, 1]})], {"w": weights(6, 1, 3, 3)}),
    "grouped and dilated": (
        [("Conv", ["w"], {}), ("Conv", ["v"], {"group": 2, "dilations": [2, 2]})],
        {"w": weights(8, 3, 1, 1), "v": weights(4, 4, 3, 3)},
    ),
    "batch norm and slopes": (
        [("BatchNormalization", ["a", "b", "c", "d"], {}), ("PRelu", ["s"], {}), ("LeakyRelu", [], {"alpha": 0.2})],
        {"a": weights(3), "b": weights(3), "c": weights(3), "d": weights(3) ** 2 + 1, "s": weights(3, 1, 1)},
    ),
    "pools and nearest": (
        [
            ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
            ("Resize", ["", "scales"], {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
            ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "rows of a detector": (
        [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Reshape", ["to"], {}), ("Sigmoid", [], {})],
        {"to": np.array([0, -1, 3])},
    ),
    "flattened to a vector": (
        [("Flatten", [], {}), ("Gemm", ["w", "b"], {"transB": 1})],
        {"w": weights(5, 768), "b": weights(5)},
    ),
    "averaged to a vector": (
        [("GlobalAveragePool", [], {}), ("Squeeze", ["axes"], {}), ("MatMul", ["w"], {}), ("Unsqueeze", ["two"], {})],
        {"axes": np.array([2, 3]), "w": weights(3, 4), "two": np.array([2])},
    ),
    "arithmetic with constants": (
        [("Sub", ["m"], {}), ("Div", ["s"], {}), ("Mul", ["k"], {}), ("Clip", ["low", "high"], {})],
        {"m": weights(1, 3, 1, 1), "s": weights(3, 1, 1) ** 2 + 1, "k": weights(16)}
        | {"low": np.float32(0), "high": np.float32(6)},
    ),
}


@heavy
@pytest.mark.timeout(300)  # loading TensorFlow takes its time
@pytest.mark.parametrize("chain", CHAINS)
def test_the_graph_computes_what_onnx_runtime_computes(chain: str, tmp_path: Path) -> None:
    need_extra()
    import onnx  # noqa: PLC0415 - only with the extra, as below

    from tools.lib.convert.graph import read_graph  # noqa: PLC0415
    from tools.lib.convert.network import FloatModel, Normalisation, check_forward, make_forward  # noqa: PLC0415
    from tools.lib.convert.operators import OPERATORS  # noqa: PLC0415

    steps, constants = CHAINS[chain]
    nodes = [
        onnx.helper.make_node(
            kind, [f"t{i}" if i else "x", *extra], [f"t{i + 1}" if i + 1 < len(steps) else "y"], **more
        )
        for i, (kind, extra, more) in enumerate(steps)
    ]
    path = save_model(tmp_path / "m.onnx", nodes, constants)
    normalisation = Normalisation((120.0, 110.0, 100.0), (60.0, 58.0, 56.0), bgr=True)
    graph = read_graph(path, frozenset(OPERATORS))
    forward = make_forward(graph, normalisation, {"y": "y"}, {})
    assert check_forward(forward, FloatModel(path, normalisation, {"y": "y"}), (16, 16)) < 1e-4
    wrong = make_forward(graph, Normalisation((0.0,) * 3, (60.0, 58.0, 56.0), bgr=True), {"y": "y"}, {})
    with pytest.raises(ModelError, match="before any quantisation"):
        check_forward(wrong, FloatModel(path, normalisation, {"y": "y"}), (16, 16))


@heavy
@pytest.mark.shared
@pytest.mark.timeout(600)  # calibration and conversion of a whole model
def test_an_embedder_is_listed_when_it_loses_little_and_nothing_is_written_otherwise(tmp_path: Path) -> None:
    need_extra()
    from tools.lib.convert.__main__ import main  # noqa: PLC0415

    shared, manifest = shared_folder(), tmp_path / "out" / "manifest.yaml"
    command = ["--model", str(shared / "models" / "teacher" / "MobileFaceNet.onnx"), "--name", "mobilefacenet"]
    command += ["--decoder", "embedding", "--pictures", str(shared / "data" / "synthetic_faces"), "--limit", "40"]
    command += ["--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375", "--licence", "Apache-2.0"]
    command += ["--training-data", "refined MS-Celeb-1M", "--manifest", str(manifest)]
    assert main([*command, "--max-loss", "0.0001"]) == 2
    assert not manifest.parent.exists()
    assert main(command) == 0
    engine = load_engine(manifest, "mobilefacenet")
    assert (engine.entry.input.scale, engine.entry.input.zero_point) == (1 / 128, 0)
    assert engine.entry.metrics["int8_mean_cosine"] > 1 - loss.MAX_COSINE_LOSS
