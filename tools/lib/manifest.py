# SPDX-License-Identifier: Apache-2.0
"""List a model file in a manifest: this is how another model is dropped in. Run as ``tools/manifest``.

``add`` reads shapes, types and quantisation from the file, runs the golden picture, writes the entry and loads it
once the way a unit does. ``check`` does that for every entry. The manifest is rewritten as a whole and atomically.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.errors import ModelError, PosternError
from agent.inference.engine import Engine, TensorInfo, describe_runtime, make_interpreter, tensors
from agent.inference.golden import picture, record
from agent.inference.heads import HEADS
from agent.inference.manifest import (
    MANIFEST_VERSION,
    MAX_MODEL_BYTES,
    Golden,
    GoldenOutput,
    InputSpec,
    Manifest,
    ModelEntry,
    OutputSpec,
    check_entry,
    detector_digest,
    load_manifest,
    parse_manifest,
)
from agent.inference.runtime import open_runtime
from agent.match.policy import parse_policy

DEFAULT_MANIFEST = Path(__file__).resolve().parents[2] / "models" / "manifest.yaml"
DEFAULT_SEED = 1
HEADER = """# SPDX-License-Identifier: Apache-2.0
# The models that a unit may load. Written by tools/manifest: change an entry by adding it again.
"""


def build_entry(content: bytes, file: str, name: str, decoder: str, **facts: Any) -> ModelEntry:  # noqa: ANN401
    """Make the entry of a model file; raises ModelError.

    ``facts``: ``licence`` and ``training_data``; optionally ``tensor_names`` (output name -> tensor name in the file),
    ``input`` (fields of InputSpec that the file cannot tell: layout, colour, mean, std), ``seed``, and any other field
    of ModelEntry.
    """
    task = next((t for t, d in HEADS if d == decoder), "unknown")
    if len(content) > MAX_MODEL_BYTES:
        raise ModelError(f"model {name}: a model has at most {MAX_MODEL_BYTES} bytes")
    runtime = open_runtime()
    interpreter = make_interpreter(name, content, runtime, 1)
    inputs, outputs = tensors(name, interpreter)
    names: dict[str, str] = facts.pop("tensor_names", None) or {}
    input_facts: dict[str, Any] = facts.pop("input", None) or {}
    seed = facts.pop("seed", DEFAULT_SEED)
    wanted = {names.get(head, head): head for head in HEADS.get((task, decoder), ())}
    specs = {wanted.get(tensor, tensor): _output(wanted.get(tensor, tensor), info) for tensor, info in outputs.items()}
    if len(inputs) != 1:
        raise ModelError(f"model {name}: the file has {len(inputs)} inputs; one picture is expected")
    (image,) = inputs.values()
    blank = GoldenOutput(crc32=0, sample=(0.0,))
    entry = _validated(
        ModelEntry(
            name=name,
            file=file,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            task=task,  # type: ignore[arg-type]
            decoder=decoder,
            input=InputSpec(
                name=image.name,
                shape=image.shape,  # type: ignore[arg-type]
                dtype=image.dtype,
                scale=image.scale,
                zero_point=image.zero_point,
                **input_facts,
            ),
            outputs=dict(sorted(specs.items())),
            golden=Golden(
                seed=seed,
                runtime=describe_runtime(runtime, interpreter),
                outputs=dict.fromkeys(specs, blank),
            ),
            embedding_dim=specs["embedding"].shape[-1] if "embedding" in specs else None,
            created=facts.pop("created", None) or datetime.now(UTC).date(),
            **facts,
        )
    )
    engine = Engine(entry, content, runtime=runtime)
    raw = engine.run(picture(seed, entry.input.height, entry.input.width))
    answers = {head: record(raw[head]) for head in entry.outputs}
    golden = msgspec.structs.replace(entry.golden, outputs=answers)
    return _validated(msgspec.structs.replace(entry, golden=golden))


def add_entry(manifest: Path, entry: ModelEntry, content: bytes) -> None:
    """Put the file beside ``manifest`` and write ``entry``, in place of one of the same name; raises ModelError."""
    entries = [e for e in load_manifest(manifest).entries if e.name != entry.name] if manifest.exists() else []
    entries.append(entry)
    text = HEADER + dump([msgspec.to_builtins(e, builtin_types=(date,)) for e in sorted(entries, key=lambda e: e.name)])
    parse_manifest(text.encode(), manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    target = manifest.parent / entry.file
    if not target.exists() or target.read_bytes() != content:
        _replace(target, content)
    _replace(manifest, text.encode())


def staged(manifest: Path, folder: Path, entry: ModelEntry, content: bytes) -> Path:
    """Copy a manifest and its models to a new ``folder`` and add ``entry``: to measure what is not listed yet."""
    copy = folder / manifest.name
    folder.mkdir(parents=True)
    shutil.copy(manifest, copy)
    for each in load_manifest(manifest).entries:
        shutil.copy(manifest.with_name(each.file), copy.with_name(each.file))
    add_entry(copy, entry, content)
    return copy


def publish(manifest: Path, entry: ModelEntry, content: bytes, target: Path, policy: bytes) -> None:
    """Write policy, model and manifest, each at once; the manifest last, so that it lists nothing that is not there."""
    before = target.read_bytes() if target.exists() else None
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, policy, mode=PUBLIC_MODE)
    try:
        add_entry(manifest, entry, content)
    except (PosternError, OSError):
        if before is None:
            target.unlink()
        else:
            write_atomic(target, before, mode=PUBLIC_MODE)
        raise


def dump(models: list[dict[str, Any]]) -> str:
    """YAML of the entries: block style outside, short lists and records on one line."""
    for model in models:
        for key in [k for k, v in model.items() if v is None or v == {}]:
            del model[key]
        model["outputs"] = {
            head: _Flow({k: v for k, v in spec.items() if v is not None}) for head, spec in model["outputs"].items()
        }
        model["golden"]["outputs"] = {head: _Flow(v) for head, v in model["golden"]["outputs"].items()}
        if "metrics" in model:
            model["metrics"] = dict(sorted(model["metrics"].items()))
    document = {"version": MANIFEST_VERSION, "models": _short(models)}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=118, allow_unicode=True)


class _Flow(dict[str, Any]):
    """A record that is written on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _data: object) -> bool:
        return True


_Dumper.add_representer(_Flow, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v, flow_style=True))
_Dumper.add_representer(tuple, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))


def _short(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    """Write numbers shortly: whole ones as integers, others with the nine digits that identify a float32."""
    if isinstance(value, dict):
        return type(value)((key, _short(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(_short, value))
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.9g}")
    return value


def _output(head: str, info: TensorInfo) -> OutputSpec:
    return OutputSpec(
        shape=info.shape,
        dtype=info.dtype,
        scale=info.scale,
        zero_point=info.zero_point,
        tensor=None if info.name == head else info.name,
    )


def _validated(entry: ModelEntry) -> ModelEntry:
    """Return the entry as reading it back would see it; raises ModelError."""
    try:
        checked = msgspec.convert(msgspec.to_builtins(entry, builtin_types=(date,)), ModelEntry)
    except msgspec.ValidationError as error:
        raise ModelError(f"model {entry.name}: {error}") from error
    check_entry(checked)
    return checked


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _pairs(items: list[str]) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in items)


def _per_channel(text: str) -> tuple[float, ...]:
    values = tuple(float(v) for v in text.split(","))
    return values * 3 if len(values) == 1 else values


def add(args: argparse.Namespace) -> None:
    content = args.file.read_bytes()
    entry = build_entry(
        content,
        args.file.name if args.store_as is None else args.store_as,
        args.name,
        args.decoder,
        tensor_names=_pairs(args.output),
        input={
            "layout": args.layout,
            "colour": args.colour,
            "mean": args.mean,
            "std": args.std,
        },
        seed=args.seed,
        licence=args.licence,
        training_data=args.training_data,
        teacher=args.teacher,
        score_threshold=args.score_threshold,
        landmarks=args.landmarks,
        metrics={key: float(value) for key, value in _pairs(args.metric).items()},
        created=args.created,
    )
    add_entry(args.manifest, entry, content)
    print(f"{entry.name}: {entry.digest}, {entry.size} bytes, self-test recorded on {entry.golden.runtime}")


def check(args: argparse.Namespace) -> None:
    manifest = load_manifest(args.manifest)
    for entry in manifest.entries:
        engine = Engine(entry, manifest.read(entry))
        verdict = "exact" if engine.self_test() else "within tolerance"
        print(
            f"{entry.name}: {entry.task}/{entry.decoder}, {entry.size} bytes, self-test {verdict} on {engine.runtime}"
        )


def detector_digests(manifest: Manifest) -> tuple[str, ...]:
    """Identities of all listed detectors, each with the model of its second look, as a policy names them."""
    return tuple(
        detector_digest(entry, manifest.entry(entry.landmarks) if entry.landmarks else None)
        for entry in manifest.entries
        if entry.task == "detector"
    )


def bind(args: argparse.Namespace) -> None:
    """Have a policy name the manifest's entries: after a change of how they are named, never of what they compute."""
    manifest = load_manifest(args.manifest)
    content = json.loads(args.policy.read_bytes())
    embedder = manifest.entry(args.embedder)
    if content["model"] not in {embedder.weights, embedder.digest}:
        raise ModelError(f"the policy was measured for another model than {embedder.name}: calibrate it again")
    content |= {
        "model": embedder.digest,
        "detectors": detector_digests(manifest),
        "formerly": embedder.weights,
    }
    policy = parse_policy(json.dumps(content).encode())
    _replace(args.policy, policy.canonical() + b"\n")
    print(f"{args.policy}: for {embedder.name} {embedder.digest}, {len(policy.detectors)} detectors")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/manifest", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--manifest", type=Path, default=DEFAULT_MANIFEST, help="default: models/manifest.yaml")
    commands = parser.add_subparsers(required=True)
    adding = commands.add_parser("add", help="list a .tflite file, or list it anew", description=__doc__)
    adding.set_defaults(run=add)
    adding.add_argument("--file", type=Path, required=True, help="copied beside the manifest unless it is there")
    adding.add_argument("--store-as", help="file name beside the manifest; default: that of --file")
    adding.add_argument("--name", required=True)
    adding.add_argument(
        "--decoder", required=True, choices=sorted(d for _, d in HEADS), help="the task follows from it"
    )
    adding.add_argument(
        "--output", action="append", default=[], metavar="NAME=TENSOR", help="the file's name of an output"
    )
    adding.add_argument("--layout", default="NHWC", choices=["NHWC", "NCHW"])
    adding.add_argument("--colour", default="RGB", choices=["RGB", "BGR"])
    adding.add_argument("--mean", type=_per_channel, default=(128.0,) * 3, help="of pixels; one number or a,b,c")
    adding.add_argument("--std", type=_per_channel, default=(128.0,) * 3, help="likewise; (pixel - mean) / std")
    adding.add_argument(
        "--score-threshold", type=float, help="the working point of a detector, a landmark or a liveness network"
    )
    adding.add_argument("--landmarks", metavar="NAME", help="a detector's landmark model, listed before")
    adding.add_argument("--licence", required=True, help="SPDX expression of the weights")
    adding.add_argument("--training-data", required=True)
    adding.add_argument("--teacher")
    adding.add_argument("--metric", action="append", default=[], metavar="NAME=NUMBER", help="a measured figure")
    adding.add_argument("--created", type=date.fromisoformat, help="default: today (UTC)")
    adding.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of the golden picture")
    commands.add_parser("check", help="load and self-test every entry as a unit does").set_defaults(run=check)
    binding = commands.add_parser("bind", help="name the manifest's entries in a policy whose vectors are the same")
    binding.set_defaults(run=bind)
    binding.add_argument("policy", type=Path, metavar="POLICY.json", help="unsigned")
    binding.add_argument("--embedder", default="embedder", help="default: %(default)s")
    args = parser.parse_args()
    try:
        args.run(args)
    except (PosternError, OSError) as error:
        print(f"tools/manifest: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, PosternError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
