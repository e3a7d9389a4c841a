# SPDX-License-Identifier: Apache-2.0
"""An ONNX file as a list of nodes and constants, checked for what can be converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from agent.errors import ModelError, printable

MAX_ONNX_BYTES = 512 * 1024 * 1024  # a float model that fits a unit as int8 (32 MiB) has at most 128 MiB
# Evaluated while reading, as long as everything they need is known then: exporters compute shapes with them.
FOLDED = frozenset({"Cast", "Constant", "ConstantOfShape", "Floor", "Gather", "Range", "Shape", "Slice"})

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; an empty input name is an input that was left out."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    proto: onnx.NodeProto


@dataclass(frozen=True, slots=True)
class Graph:
    """A model with one picture in; ``shape`` is (1, 3, height, width)."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    input: str
    shape: tuple[int, int, int, int]
    outputs: tuple[str, ...]
    opset: int

    def fold(self, node: Node, inputs: list[Array | None]) -> list[Array]:
        """Compute a node of known inputs with ONNX's reference implementation."""
        feeds = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name and value is not None}
        known = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()
        ]
        made = [helper.make_empty_tensor_value_info(name) for name in node.outputs]
        alone = helper.make_graph([node.proto], "folded", known, made)
        # As a model: of a node by itself the evaluator takes the newest version, whatever the opset.
        model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", self.opset)])
        return list(ReferenceEvaluator(model).run(None, feeds))


def read_graph(path: Path, known: frozenset[str], size: tuple[int, int] | None = None) -> Graph:
    """Read a model; raises ModelError when it has an operation outside ``known`` or no fixed size.

    ``size`` (width, height) is that of a model which leaves it open.
    """
    model = _load(path)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pictures = [value for value in graph.input if value.name not in constants]
    if len(pictures) != 1:
        raise ModelError(f"{path} has {len(pictures)} inputs; one picture is expected")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    check_kinds(path, [(node.domain, node.op_type) for node in graph.node], known)
    return Graph(
        tuple(_node(node) for node in graph.node),
        constants,
        pictures[0].name,
        picture_shape(path, [dim.dim_value for dim in pictures[0].type.tensor_type.shape.dim], size),
        tuple(value.name for value in graph.output),
        opset,
    )


def check_kinds(path: Path, kinds: list[tuple[str, str]], known: frozenset[str]) -> None:
    """Raise ModelError naming every operation, by (domain, kind), that cannot be converted."""
    foreign = sorted({kind for domain, kind in kinds if kind not in known | FOLDED or domain not in ("", "ai.onnx")})
    if foreign:
        raise ModelError(
            f"{path} uses {', '.join(map(printable, foreign))}, which cannot be converted; "
            f"supported are {', '.join(sorted(known | FOLDED))}"
        )


def picture_shape(path: Path, dims: list[int], size: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """Return (1, 3, h, w) from the dimensions of the input, 0 for open ones; raises ModelError."""
    if len(dims) != 4 or dims[0] not in (0, 1) or dims[1] not in (0, 3):
        raise ModelError(f"{path} takes {tuple(dims)}; one picture as (1, 3, height, width) is expected")
    width, height = size or (dims[3], dims[2])
    if not (width and height):
        raise ModelError(f"{path} leaves its input size open; give it as --size WIDTHxHEIGHT")
    if dims[3] not in (0, width) or dims[2] not in (0, height):
        raise ModelError(f"{path} takes {dims[3]}x{dims[2]} pictures, not {width}x{height}")
    return 1, 3, height, width


def model_input(picture: NDArray[np.uint8], mean: Array, std: Array, *, bgr: bool) -> NDArray[np.float32]:
    """Return an RGB picture (h, w, 3) as the model's own input (1, 3, h, w): (pixel - mean) / std, float32."""
    ordered = picture[..., ::-1] if bgr else picture
    return np.ascontiguousarray(((ordered - mean) / std).astype(np.float32).transpose(2, 0, 1)[None])


def _node(node: onnx.NodeProto) -> Node:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
    return Node(node.op_type, tuple(node.input), tuple(node.output), texts, node)


def _load(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        model = onnx.load(str(path)) if size <= MAX_ONNX_BYTES else None
        if model is not None:
            onnx.checker.check_model(model)
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf and the checker raise kinds of their own
        raise ModelError(f"{path} is not an ONNX model: {printable(str(error))}") from error
    if model is None:
        raise ModelError(f"{path} has {size} bytes; a model to convert has at most {MAX_ONNX_BYTES}")
    return model
