# SPDX-License-Identifier: Apache-2.0
"""The engine: what goes in, what comes out, and the proof that this machine computes what was listed."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference import golden
from agent.inference.engine import Engine, Raw
from agent.inference.manifest import GoldenOutput, InputSpec, ModelEntry, load_manifest
from agent.inference.preprocess import make_preprocess
from agent.inference.runtime import Runtime, open_runtime

MODELS = Path(__file__).parents[1] / "assets" / "models"


def load(name: str, **options: Any) -> Engine:
    manifest = load_manifest(MODELS / "manifest.yaml")
    entry = manifest.entry(name)
    return Engine(entry, manifest.read(entry), **options)


def plain_kernels() -> Runtime:
    """LiteRT as it runs where /proc/cpuinfo cannot be read: without XNNPACK."""

    def interpreter(**options: Any) -> litert.Interpreter:
        kind = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        return litert.Interpreter(experimental_op_resolver_type=kind, **options)

    return Runtime("ai-edge-litert", open_runtime().version, interpreter)


def picture(width: int = 112, height: int = 112) -> NDArray[np.uint8]:
    return golden.picture(5, height, width)


@pytest.mark.parametrize("name", ["toy-detector", "toy-embedder"])
def test_self_test_of_an_integer_model_is_exact_on_the_listed_runtime(name: str) -> None:
    engine = load(name)
    assert engine.runtime.endswith(" xnnpack")
    if engine.runtime == engine.entry.golden.runtime:
        assert engine.self_test()
    else:  # another release of the runtime may round differently
        engine.self_test()


def test_self_test_of_a_float_model_has_a_tolerance() -> None:
    load("toy-embedder-float").self_test()


def test_silently_missing_xnnpack_is_detected_and_explained() -> None:
    engine = load("toy-embedder", runtime=plain_kernels())
    assert engine.runtime.endswith(" plain")
    with pytest.raises(ModelError, match=r"XNNPACK was not applied.*/proc/cpuinfo"):
        engine.self_test()


@pytest.mark.parametrize("name", ["toy-detector", "toy-embedder", "toy-embedder-float"])
def test_another_runtime_passes_within_tolerance(name: str) -> None:
    runtime = plain_kernels()
    engine = load(name, runtime=Runtime("tflite-runtime", "2.14.0", runtime.interpreter))
    engine.self_test()


def test_another_runtime_that_computes_something_else_is_refused() -> None:
    runtime = plain_kernels()
    engine = load("toy-embedder", runtime=Runtime("tflite-runtime", "2.14.0", runtime.interpreter))
    record = engine.entry.golden.outputs["embedding"]
    shifted = GoldenOutput(crc32=0, sample=tuple(v + 9 for v in record.sample))
    engine.entry = with_golden(engine.entry, shifted)
    with pytest.raises(ModelError, match="too far from the listed result"):
        engine.self_test()


def test_one_step_of_difference_on_the_same_runtime_is_refused() -> None:
    engine = load("toy-embedder")
    record = engine.entry.golden.outputs["embedding"]
    engine.entry = with_golden(engine.entry, GoldenOutput(crc32=record.crc32 ^ 1, sample=record.sample), engine.runtime)
    with pytest.raises(ModelError, match="same runtime"):
        engine.self_test()


def with_golden(entry: ModelEntry, output: GoldenOutput, runtime: str | None = None) -> ModelEntry:
    record = msgspec.structs.replace(
        entry.golden, outputs={"embedding": output}, runtime=runtime or entry.golden.runtime
    )
    return msgspec.structs.replace(entry, golden=record)


def test_golden_picture_never_changes() -> None:
    assert zlib.crc32(golden.picture(1, 240, 320).tobytes()) == 524694813
    assert golden.picture(1, 30, 50).shape == (30, 50, 3)


def test_raw_outputs_are_copies_that_later_runs_leave_alone() -> None:
    engine = load("toy-embedder")
    first = engine.run(picture())["embedding"]
    before = first.copy()
    engine.run(np.zeros((112, 112, 3), np.uint8))
    assert (first == before).all()


def test_dequantised_int8_agrees_with_the_float_arithmetic_of_the_entry() -> None:
    engine = load("toy-embedder")
    raw = engine.run(picture())["embedding"]
    spec = engine.entry.outputs["embedding"]
    real = engine.dequantise("embedding", raw)
    assert real.dtype == np.float32
    np.testing.assert_allclose(real, (raw.astype(float) - spec.zero_point) * spec.scale, rtol=1e-6)


def test_float_model_is_read_as_it_is() -> None:
    engine = load("toy-embedder-float")
    raw = engine.run(picture())["embedding"]
    assert raw.dtype == np.float32
    assert (engine.dequantise("embedding", raw) == raw).all()


def test_threads_are_bounded() -> None:
    with pytest.raises(ModelError, match="threads"):
        load("toy-embedder", threads=99)


def test_unknown_runtime_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="unknown model runtime 'torch'; known: ai-edge-litert, tflite-runtime"):
        open_runtime(("torch",))


def test_absent_runtime_says_what_to_install() -> None:
    if importlib.util.find_spec("tflite_runtime") is not None:
        pytest.skip("the fallback runtime is installed here")
    with pytest.raises(ModelError, match="install one of: tflite-runtime"):
        open_runtime(("tflite-runtime",))


class Older:
    """A runtime that loads, and has not what this program uses."""

    def __init__(self, model_content: bytes, num_threads: int) -> None:
        self.loaded = model_content, num_threads

    def allocate_tensors(self) -> None:
        """As every release does."""


@pytest.mark.parametrize(("interpreter", "lacks"), [(Older, "get_signature_list"), (object, "takes no arguments")])
def test_a_runtime_of_another_version_is_told_as_that(interpreter: Any, lacks: str) -> None:
    with pytest.raises(ModelError, match=f"ai-edge-litert 0.1 is not one that this program can use .*{lacks}") as told:
        load("toy-embedder", runtime=Runtime("ai-edge-litert", "0.1", interpreter))
    assert told.value.exit_status == 2


def spec(**fields: Any) -> InputSpec:
    values: dict[str, Any] = {
        "name": "image",
        "shape": (1, 4, 4, 3),
        "dtype": "uint8",
        "scale": 1 / 128,
        "zero_point": 128,
    }
    return InputSpec(**values | fields)


RAMP = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5


def prepared(entry: InputSpec, image: NDArray[np.uint8]) -> NDArray[Any]:
    tensor = np.full(entry.shape, 99, entry.dtype)
    make_preprocess(entry)(image, tensor)
    return tensor


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="112x112 pixels"):
        load("toy-embedder").run(picture(1, 1))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, RAMP),
        ({"dtype": "int8", "zero_point": 0}, RAMP.astype(np.int16) - 128),
        ({"dtype": "int8", "zero_point": 0, "colour": "BGR"}, RAMP[..., ::-1].astype(np.int16) - 128),
        ({"colour": "BGR"}, RAMP[..., ::-1]),
        ({"dtype": "float32", "scale": 0.0, "zero_point": 0}, (RAMP / 128.0) - 1),
        (
            {"dtype": "float32", "scale": 0.0, "zero_point": 0, "mean": (1.0, 2.0, 3.0), "std": (1.0, 2.0, 4.0)},
            (RAMP - np.array([1.0, 2, 3])) / [1.0, 2, 4],
        ),
        ({"scale": 1 / 64}, np.rint((RAMP - 128.0) / 2) + 128),
        ({"scale": 1 / 512}, ((RAMP - 128.0) * 4 + 128).clip(0, 255)),
    ],
)
def test_preprocessing_follows_the_entry(fields: dict[str, Any], expected: NDArray[Any]) -> None:
    tensor = prepared(spec(**fields), RAMP)
    np.testing.assert_allclose(tensor[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, RAMP[..., 2]),
        ({"dtype": "int8", "zero_point": 0}, RAMP[..., 2].astype(np.int16) - 128),
        ({"dtype": "float32", "scale": 0.0, "zero_point": 0}, RAMP[..., 2] / 128.0 - 1),
        ({"scale": 1 / 512}, ((RAMP[..., 2] - 128.0) * 4 + 128).clip(0, 255)),
    ],
)
def test_planes_first_layout_is_transposed(fields: dict[str, Any], first: NDArray[Any]) -> None:
    tensor = prepared(spec(layout="NCHW", shape=(1, 3, 4, 4), colour="BGR", **fields), RAMP)
    np.testing.assert_allclose(tensor[0, 0], first, atol=1e-6)


def test_views_and_foreign_layouts_reach_the_interpreter_correctly() -> None:
    engine = load("toy-embedder")
    wide = np.zeros((112, 224, 3), np.uint8)
    wide[:, ::2] = picture()
    strided: Raw = engine.run(wide[:, ::2])
    assert (strided["embedding"] == engine.run(picture())["embedding"]).all()
