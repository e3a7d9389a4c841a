# SPDX-License-Identifier: Apache-2.0
"""End a training of the embedder: quantise, measure, and write file, manifest entry, policy, card and float16 start.

tools/train ship RUN/last.pt POOL --dev LFW_DEV --shards FAIRFACE --ship PAIRS.csv --fill FACES

``tools/train embedder … --ship PAIRS.csv`` does it by itself after the last step. Everything is measured in a copy
first: what cannot be converted or measured changes nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.errors import RefusedError
from agent.inference.manifest import ModelEntry, load_manifest
from tools.lib.evaluate import card
from tools.lib.evaluate.arguments import existing_file
from tools.lib.manifest import DEFAULT_MANIFEST, build_entry, publish, staged
from tools.lib.train import watched
from tools.lib.train.checkpoints import half


def add_options(parser: argparse.ArgumentParser) -> None:
    say = parser.add_argument
    say(
        "--ship", type=existing_file, metavar="PAIRS.csv", help="at the end write the models; pairs of --dev's pictures"
    )
    say("--fill", type=Path, metavar="DIR", help="pictures of further people, one each, for galleries")
    say("--manifest", type=Path, default=DEFAULT_MANIFEST, help="default: models/manifest.yaml")
    say("--name", default="embedder", help="of the entry that is replaced; default: %(default)s")
    say("--training-data", help="what it learned from; default: what that entry says")
    say("--centre", type=Path, nargs="+", metavar="FOLDER", help="even out crowds: means of --shards and these photos")


def check(args: argparse.Namespace) -> ModelEntry | None:
    """Refuse before hours of training what would fail after them; the entry that is to be replaced."""
    if args.ship is None:
        return None
    if args.dev is None or args.shards is None:
        raise RefusedError("--ship measures: give --dev and --shards too")
    if absent := [folder for folder in args.centre or () if not folder.is_dir()]:
        raise RefusedError(f"--centre: there is no folder {absent[0]}")
    return load_manifest(args.manifest).entry(args.name)


def ship(checkpoint: Path, args: argparse.Namespace) -> None:
    """Write what the checkpoint became beside ``args.manifest``, or nothing."""
    # TensorFlow takes ten seconds to load, and nobody who trains on needs it
    from tools.lib.train.export_embedder import content  # noqa: PLC0415

    before = check(args)
    if before is None:
        raise RefusedError("name the pairs to measure on: --ship PAIRS.csv")
    torch.set_num_threads(1)
    model, told = content(checkpoint, args.pool)
    if args.centre:
        model, told = _centred(model, args, before), f"{told}, centred"
    entry = _listed(model, before, args)
    data = card.Data(args.dev, args.ship, args.shards, args.last, args.fill)
    with tempfile.TemporaryDirectory(prefix="ship-") as folder:
        copy = staged(args.manifest, Path(folder) / "models", entry, model)
        policy = Path(folder) / "policy.json"
        text, _ = card.measured(
            copy, args.name, card.DETECTOR, data, policy=policy, keep=Path(folder) / "vectors", made=(told,)
        )
        rooms = args.manifest.parent
        target = rooms / ("policy.json" if args.name == "embedder" else f"policy-{args.name}.json")
        publish(args.manifest, entry, model, target, policy.read_bytes())
    for path, written in (
        (rooms / "cards" / f"{args.name}.md", text.encode()),
        (rooms / "train" / f"{args.name}.pt", half(checkpoint)),
    ):
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, written, mode=PUBLIC_MODE)
    print(
        f"{entry.name}: {entry.digest}, {entry.size} bytes, with policy, card and float16 start in {rooms}", flush=True
    )


def _listed(model: bytes, before: ModelEntry, args: argparse.Namespace) -> ModelEntry:
    return build_entry(
        model,
        before.file,
        before.name,
        before.decoder,
        input={"layout": "NHWC", "colour": "RGB", "mean": (128.0,) * 3, "std": (128.0,) * 3},
        licence=before.licence,
        training_data=args.training_data or before.training_data,
        teacher=before.teacher,
    )


def _centred(model: bytes, args: argparse.Namespace, before: ModelEntry) -> bytes:
    from tools.lib.train.centre import means_of, vectors  # noqa: PLC0415 - likewise: its k-means is OpenCV's
    from tools.lib.train.last_step import centred  # noqa: PLC0415 - likewise

    with tempfile.TemporaryDirectory(prefix="centre-") as folder:
        copy = staged(args.manifest, Path(folder) / "models", _listed(model, before, args), model)
        found = vectors(copy, before.name, args.shards, args.last, args.centre)
    return centred(model, means_of(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pool", type=Path)
    watched.add_options(parser)
    add_options(parser)
    args = parser.parse_args()
    ship(args.checkpoint, args)


if __name__ == "__main__":
    main()
