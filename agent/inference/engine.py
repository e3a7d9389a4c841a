# SPDX-License-Identifier: Apache-2.0
"""One model, loaded and checked: pictures in, named raw tensors out.

An engine owns one interpreter and is **single-threaded**: calls from two threads raise inside LiteRT. Give each
thread its own engine. ``run`` releases the interpreter lock of Python while the model computes.

At construction the file must be what its manifest entry says: one input and the listed outputs (no others), with the
listed shapes, types and quantisation. ``self_test`` then proves that this machine computes what was computed when the
model was listed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError, printable
from agent.inference.golden import check_golden, picture
from agent.inference.manifest import (
    DTYPES,
    DType,
    InputSpec,
    Manifest,
    ModelEntry,
    OutputSpec,
    Shape,
    check_content,
    load_manifest,
)
from agent.inference.preprocess import make_preprocess
from agent.inference.runtime import LITERT, Detail, Interpreter, Runtime, of_another_version, open_runtime

MAX_THREADS = 8  # more than the cores of any supported board
SCALE_TOLERANCE = 1e-6  # relative: YAML text keeps nine digits of a float32

Raw = dict[str, NDArray[Any]]


class TensorInfo(msgspec.Struct, frozen=True):
    """One input or output as the file declares it; scale 0 means not quantised."""

    index: int
    name: str
    shape: Shape
    dtype: DType
    scale: float
    zero_point: int


class Engine:
    """A loaded model. Not for use by two threads."""

    def __init__(self, entry: ModelEntry, content: bytes, *, threads: int = 1, runtime: Runtime | None = None) -> None:
        """Load ``content`` (the bytes of ``Manifest.read``); raises ModelError if it is not as listed."""
        check_content(entry, content)
        self.entry = entry
        self.digest = entry.digest
        runtime = runtime or open_runtime()
        with of_another_version(runtime):
            self._interpreter = make_interpreter(entry.name, content, runtime, threads)
            inputs, outputs = tensors(entry.name, self._interpreter)
        self._input = _checked_input(entry, inputs)
        self._outputs = _checked_outputs(entry, outputs)
        self._prepare = make_preprocess(entry.input)
        # name, version and kernels, as ``info`` publishes them
        self.runtime = describe_runtime(runtime, self._interpreter)

    def run(self, image: NDArray[np.uint8]) -> Raw:
        """Compute all outputs for an RGB picture, uint8 (height, width, 3) of the input's size; else ValueError.

        The arrays are copies, raw (still quantised), by the names of the manifest entry.
        """
        spec = self.entry.input
        if image.shape != (spec.height, spec.width, 3):
            raise ValueError(f"{spec.width}x{spec.height} pixels of three channels are expected, not {image.shape}")
        interpreter = self._interpreter
        self._prepare(image, interpreter.tensor(self._input)())  # no view of a tensor may live while it computes
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in self._outputs}

    def dequantise(self, name: str, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Real numbers, float32, of raw values of the output ``name``."""
        spec = self.entry.outputs[name]
        if spec.dtype == "float32":
            return raw.astype(np.float32, copy=False)
        values: NDArray[np.float32] = raw.astype(np.float32)
        values -= spec.zero_point
        values *= spec.scale
        return values

    def self_test(self) -> bool:
        """Run the golden picture; True when the answer is bit for bit the listed one, False when within tolerance.

        Raises ModelError when this machine computes something else, or computes without the listed kernels.
        """
        golden = self.entry.golden
        raw = self.run(picture(golden.seed, self.entry.input.height, self.entry.input.width))
        return check_golden(self.entry, raw, self.runtime)


def load_engine(manifest: Path | Manifest, name: str, *, threads: int = 1) -> Engine:
    """Load the model called ``name``, verified and self-tested; raises ModelError.

    ``manifest`` is the file, or what was read from it: reading it takes as long as loading a model.
    """
    models = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    entry = models.entry(name)
    engine = Engine(entry, models.read(entry), threads=threads)
    engine.self_test()
    return engine


def make_interpreter(name: str, content: bytes, runtime: Runtime, threads: int) -> Interpreter:
    """Make an interpreter with its tensors allocated; raises ModelError."""
    if not 1 <= threads <= MAX_THREADS:
        raise ModelError(f"model {name}: threads must be 1 to {MAX_THREADS}, not {threads}")
    try:
        interpreter = runtime.interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, SystemError) as error:
        reason = printable(str(error).strip().split("\n")[0])
        raise ModelError(
            f"model {name}: {runtime.name} {runtime.version} cannot load it: {reason}; "
            "it must be a .tflite file of built-in operations"
        ) from error
    return interpreter


def describe_runtime(runtime: Runtime, interpreter: Interpreter) -> str:
    """``ai-edge-litert 2.3.0 xnnpack`` or ``… plain``.

    LiteRT drops XNNPACK without an error where it cannot read /proc/cpuinfo; only the list of operations shows it.
    The list is not a public interface: without it the kernels are ``unknown``.
    """
    list_operations = getattr(interpreter, "_get_ops_details", None)
    if list_operations is None:
        kernels = "unknown"
    else:
        delegated = any(operation["op_name"] == "DELEGATE" for operation in list_operations())
        kernels = "xnnpack" if delegated and runtime.name == LITERT else "delegate" if delegated else "plain"
    return f"{runtime.name} {runtime.version} {kernels}"


def tensors(name: str, interpreter: Interpreter) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Read inputs and outputs, by signature name or else (no signature) by tensor name; raises ModelError."""
    signatures = list(interpreter.get_signature_list())
    if len(signatures) > 1 or getattr(interpreter, "num_subgraphs", lambda: 1)() > 1:
        raise ModelError(f"model {name}: the file has several entry points; convert it with a single signature")
    if signatures:
        runner = interpreter.get_signature_runner(signatures[0])
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        if len(outputs) != len(interpreter.get_output_details()):
            raise ModelError(f"model {name}: the file has outputs outside its signature; convert it without them")
    else:
        inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
        outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
    return (
        {key: _tensor_info(name, key, detail) for key, detail in inputs.items()},
        {key: _tensor_info(name, key, detail) for key, detail in outputs.items()},
    )


def _tensor_info(model: str, name: str, detail: Detail) -> TensorInfo:
    found = np.dtype(detail["dtype"]).name
    dtype = next((known for known in DTYPES if known == found), None)
    if dtype is None:
        raise ModelError(f"model {model}: {printable(name)} is {found}; only {', '.join(DTYPES)} are supported")
    if len(detail["quantization_parameters"]["scales"]) > 1:
        raise ModelError(f"model {model}: {printable(name)} is quantised per channel, not with one scale")
    scale, zero_point = detail["quantization"]
    if (dtype == "float32") != (scale == 0):
        raise ModelError(
            f"model {model}: {printable(name)} is {dtype} with scale {scale}; quantise it fully or not at all"
        )
    shape = tuple(int(n) for n in detail["shape"])
    return TensorInfo(int(detail["index"]), name, shape, dtype, float(scale), int(zero_point))


def _checked_input(entry: ModelEntry, inputs: dict[str, TensorInfo]) -> int:
    if len(inputs) != 1:
        raise ModelError(f"model {entry.name}: the file has {len(inputs)} inputs; one picture is expected")
    (info,) = inputs.values()
    if info.name != entry.input.name:
        raise ModelError(f"model {entry.name}: the input is {printable(info.name)!r}, listed as {entry.input.name!r}")
    _compare(entry.name, "the input", info, entry.input)
    return info.index


def _checked_outputs(entry: ModelEntry, outputs: dict[str, TensorInfo]) -> tuple[tuple[str, int], ...]:
    listed = {spec.tensor or name: name for name, spec in entry.outputs.items()}
    if unknown := sorted(set(outputs) - set(listed)):
        raise ModelError(
            f"model {entry.name}: refused because the file has the output {printable(unknown[0])!r}, "
            "which its manifest entry does not list"
        )
    if missing := sorted(set(listed) - set(outputs)):
        raise ModelError(f"model {entry.name}: the file has no output {printable(missing[0])!r}")
    if len(listed) != len(entry.outputs):
        raise ModelError(f"model {entry.name}: two outputs are listed for one tensor")
    for tensor, info in outputs.items():
        _compare(entry.name, f"output {listed[tensor]}", info, entry.outputs[listed[tensor]])
    return tuple((listed[tensor], info.index) for tensor, info in outputs.items())


def _compare(model: str, what: str, found: TensorInfo, listed: InputSpec | OutputSpec) -> None:
    if found.shape != listed.shape:
        raise ModelError(f"model {model}: {what} has the shape {found.shape}, listed is {listed.shape}")
    if found.dtype != listed.dtype:
        raise ModelError(f"model {model}: {what} is {found.dtype}, listed is {listed.dtype}")
    same_scale = abs(found.scale - listed.scale) <= SCALE_TOLERANCE * max(found.scale, listed.scale)
    if not same_scale or found.zero_point != listed.zero_point:
        raise ModelError(
            f"model {model}: {what} is quantised with scale {found.scale:.9g} and zero point {found.zero_point}, "
            f"listed are {listed.scale:.9g} and {listed.zero_point}"
        )
