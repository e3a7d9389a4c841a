# SPDX-License-Identifier: Apache-2.0
"""The list of models a unit may load, and the check that a file is the one that was listed.

A model is data that decides about people: it is used only if its size and SHA-256 are those of its
entry, and only with outputs that its task knows. Corrupted weights load and run without any error in
LiteRT, so nothing reaches the interpreter before ``Manifest.read`` has compared the digest.
"""

from __future__ import annotations

import hashlib
import math
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import rfc8785

from agent.errors import ModelError, printable
from agent.inference.heads import check_heads

MANIFEST_VERSION = 1
MAX_MANIFEST_BYTES = 256 * 1024  # an entry is about 2 KiB; more than a hundred models is not a manifest
MAX_MODEL_BYTES = 32 * 1024 * 1024  # a unit has 110 MiB for everything; the largest known embedder has 13 MiB
MAX_MODELS = 100  # bounds the work of refusing a hostile manifest
MAX_DIMENSIONS = 4  # batch, height, width, channels
MAX_OUTPUTS = 16  # the widest known head (YuNet) has twelve

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
FileName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]  # beside the manifest, no path
TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Dimension = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Shape = Annotated[tuple[Dimension, ...], msgspec.Meta(min_length=1, max_length=MAX_DIMENSIONS)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Scale = Annotated[float, msgspec.Meta(ge=0)]
# What of an entry says how a model is computed and read; the rest describes it or checks the runtime.
BINDING = (
    "sha256", "size", "task", "decoder", "input", "outputs", "score_threshold", "landmarks", "embedding_dim",
)  # fmt: skip
# Always three numbers: msgspec 0.22 corrupts memory for a union of a constrained float and a constrained tuple.
PerChannel = tuple[float, float, float]
ZeroPoint = Annotated[int, msgspec.Meta(ge=-128, le=255)]
DType = Literal["uint8", "int8", "float32"]
DTYPES: tuple[DType, ...] = ("uint8", "int8", "float32")
Task = Literal["detector", "landmarks", "embedder", "pad"]


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The one input: a picture.

    A pixel p (0 to 255) enters the net as the real number (p - mean) / std, with ``mean`` and ``std`` given per
    channel in the order of ``colour``. An integer tensor holds round(real / scale) + zero_point;
    scale 0 marks a float32 tensor.
    """

    name: TensorName
    shape: tuple[Dimension, Dimension, Dimension, Dimension]
    dtype: DType
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    colour: Literal["RGB", "BGR"] = "RGB"
    mean: PerChannel = (128.0, 128.0, 128.0)
    std: PerChannel = (128.0, 128.0, 128.0)
    scale: Scale
    zero_point: ZeroPoint

    @property
    def height(self) -> int:
        """Pixels."""
        return self.shape[1] if self.layout == "NHWC" else self.shape[2]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.shape[2] if self.layout == "NHWC" else self.shape[3]

    @property
    def channels(self) -> int:
        """Must be 3; checked when the manifest is read."""
        return self.shape[3] if self.layout == "NHWC" else self.shape[1]


class OutputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One output: ``tensor`` is its signature name in the file when that differs from its name here."""

    shape: Shape
    dtype: DType
    scale: Scale
    zero_point: ZeroPoint
    tensor: TensorName | None = None


class GoldenOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """CRC-32 of the raw bytes, and evenly spread raw values for a comparison with tolerance."""

    crc32: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
    sample: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=64)]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the model answered to the picture made from ``seed`` when it was listed, and on which runtime."""

    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    runtime: Text
    outputs: dict[str, GoldenOutput]


class ModelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of the manifest (DESIGN section 3)."""

    name: Name
    file: FileName
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_MODEL_BYTES)]  # bytes
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    task: Task
    decoder: Name
    input: InputSpec
    outputs: Annotated[dict[str, OutputSpec], msgspec.Meta(min_length=1, max_length=MAX_OUTPUTS)]
    golden: Golden
    score_threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None  # the working point, of all but embedders
    landmarks: Name | None = None  # detectors: the model that takes a second look at each candidate
    embedding_dim: Annotated[int, msgspec.Meta(ge=16, le=4096)] | None = None  # embedders
    licence: Text
    training_data: Text
    teacher: Text | None = None
    metrics: dict[str, float] = {}
    created: date

    @property
    def digest(self) -> str:
        """``sha256:…``, the identity that templates, events and ``info`` carry: weights, and how they are used.

        SHA-256 of the canonical JSON (RFC 8785) of ``BINDING``'s members: with another ``std`` it is another model.
        """
        members = msgspec.to_builtins(self, builtin_types=(date,))
        return digest_of({name: members[name] for name in BINDING})

    @property
    def weights(self) -> str:
        """``sha256:…`` of the file alone, which was the identity up to release 0.1."""
        return f"sha256:{self.sha256}"


def digest_of(content: object) -> str:
    """``sha256:…`` over canonical JSON (RFC 8785)."""
    return "sha256:" + hashlib.sha256(rfc8785.dumps(content)).hexdigest()  # type: ignore[arg-type]


def detector_digest(detector: ModelEntry, landmarks: ModelEntry | None) -> str:
    """Identity of a detector together with the model of its second look; this is what a policy is signed for."""
    return digest_of({"detector": detector.digest, "landmarks": None if landmarks is None else landmarks.digest})


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Literal[1]
    models: Annotated[tuple[ModelEntry, ...], msgspec.Meta(max_length=MAX_MODELS)]


class Manifest:
    """The entries of one manifest file, and access to the files beside it."""

    def __init__(self, folder: Path, entries: tuple[ModelEntry, ...]) -> None:
        self.folder = folder
        self.entries = entries
        self._by_name = {entry.name: entry for entry in entries}

    def entry(self, name: str) -> ModelEntry:
        """Return the entry called ``name``; raises ModelError with the known names."""
        try:
            return self._by_name[name]
        except KeyError:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise ModelError(f"the manifest has no model {printable(name)!r}; it lists: {known}") from None

    def read(self, entry: ModelEntry) -> bytes:
        """Return the bytes of the model file; raises ModelError unless size and SHA-256 are those of ``entry``.

        The returned bytes are the ones that were checked: the interpreter never reads the file again.
        """
        path = self.folder / entry.file
        try:
            with path.open("rb") as stream:
                content = stream.read(entry.size + 1)
        except OSError as error:
            raise ModelError(f"model {entry.name}: cannot read {path}: {error.strerror}; install the file") from error
        check_content(entry, content)
        return content


def check_content(entry: ModelEntry, content: bytes) -> None:
    """Raise ModelError unless ``content`` has the size and the SHA-256 of ``entry``."""
    if len(content) < entry.size:
        raise ModelError(
            f"model {entry.name}: the file {entry.file} is truncated: {len(content)} of {entry.size} bytes; "
            "install it again"
        )
    if len(content) > entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ModelError(
            f"model {entry.name}: the file {entry.file} was altered: it is not the one that the manifest lists; "
            "install it again, or list it with tools/manifest if the change is yours"
        )


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest; raises ModelError naming the file and the first fault."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read the model manifest {path}: {error.strerror}") from error
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """Read the manifest that ``content`` (of the file ``path``) holds; raises ModelError."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise ModelError(f"{path}: a model manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        document = msgspec.yaml.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a model manifest: {printable(str(error))}") from error
    if not _finite(msgspec.to_builtins(document)):
        raise ModelError(f"{path}: not a model manifest: every number must be finite")
    seen: set[str] = set()
    for entry in document.models:
        if entry.name in seen:
            raise ModelError(f"{path}: model {entry.name} is listed twice")
        seen.add(entry.name)
        check_entry(entry)
    tasks = {entry.name: entry.task for entry in document.models}
    for entry in document.models:
        if entry.landmarks is not None and tasks.get(entry.landmarks) != "landmarks":
            raise ModelError(
                f"{path}: model {entry.name} names {entry.landmarks} for its landmarks, which is not listed as such"
            )
    return Manifest(path.parent, document.models)


def check_entry(entry: ModelEntry) -> None:
    """Refuse an entry that contradicts itself or names outputs that its decoder does not know; raises ModelError."""
    check_heads(entry.name, entry.task, entry.decoder, frozenset(entry.outputs))
    if entry.input.shape[0] != 1 or entry.input.channels != 3:
        raise ModelError(
            f"model {entry.name}: the input must be one picture of three channels, not {entry.input.shape}"
        )
    if min(entry.input.std) <= 0:
        raise ModelError(f"model {entry.name}: std divides pixels and must be above 0")
    specs: list[tuple[str, InputSpec | OutputSpec]] = [("the input", entry.input), *entry.outputs.items()]
    for what, spec in specs:
        if (spec.dtype == "float32") != (spec.scale == 0):
            raise ModelError(f"model {entry.name}: {what}: scale 0 goes with float32, and only with it")
    if set(entry.golden.outputs) != set(entry.outputs):
        raise ModelError(f"model {entry.name}: the golden record must name exactly the outputs")
    if entry.landmarks is not None and entry.task != "detector":
        raise ModelError(f"model {entry.name}: only a detector may name a model for its landmarks")
    if entry.task == "embedder" and entry.outputs["embedding"].shape != (1, entry.embedding_dim):
        raise ModelError(f"model {entry.name}: output embedding must have the shape (1, {entry.embedding_dim})")


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
