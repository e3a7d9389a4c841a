# SPDX-License-Identifier: Apache-2.0
"""Make an int8 model of this project from an ONNX embedder or detector, measure what it lost, and list it.

Weights become int8 per channel, activations int8; the model's own normalisation and order of colours go into its first
layer, so that a unit feeds RGB pixels. Above a limit of the loss nothing is written, and the exit status is 2.

With --pack the network is fetched from where its authors publish it, once its licence was accepted, and a matching
policy is measured too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from agent.errors import ModelError, PosternError, RefusedError
from tools.lib.convert import fetch, loss, material, pack
from tools.lib.convert.outputs import TASKS
from tools.lib.evaluate.__main__ import finite, table
from tools.lib.evaluate.arguments import existing_file
from tools.lib.manifest import DEFAULT_MANIFEST, add_entry, publish

MAX_ANSWER = 200  # characters of what is typed when the licence is asked for
REQUIRED = ("model", "name", "decoder", "pictures", "mean", "std", "licence", "training_data")  # without a pack


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        report = convert_pack(args) if args.pack else convert(args)
    except (PosternError, OSError) as error:  # Pillow's errors about a broken picture are OSErrors
        print(f"tools/convert: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, PosternError) else 2
    except SystemExit as error:  # how the readers of pictures and pairs refuse
        print(error.code, file=sys.stderr)
        return 2
    print("\n".join(table(finite(report))))
    return 0


def convert(args: argparse.Namespace) -> dict[str, Any]:
    """Convert, measure and list; raises ModelError before anything is written."""
    if missing := [name for name in REQUIRED if getattr(args, name) is None]:
        raise RefusedError(f"give --pack NAME, or --{missing[0].replace('_', '-')} and what else describes the model")
    if foreign := [name for name in ("accept_licence", "people", "fill", "policy") if getattr(args, name) is not None]:
        raise RefusedError(f"--{foreign[0].replace('_', '-')} goes with --pack")
    args.colour = args.colour or "RGB"
    check_arguments(args)
    # TensorFlow takes ten seconds to load: what can be refused is refused before.
    from tools.lib.convert.conversion import make  # noqa: PLC0415

    made = make(args)
    add_entry(args.manifest, made.entry, made.content)
    return {**made.report, "manifest": str(args.manifest)}


def convert_pack(args: argparse.Namespace) -> dict[str, Any]:
    """Fetch, convert, measure, list, and write a policy; whatever is refused leaves nothing behind."""
    chosen = pack.read_pack(args.pack)
    pack.take_over(args, chosen)
    people = pack.check_material(chosen, args.pictures, args.people)
    check_arguments(args)
    target = args.policy or args.manifest.with_name(f"policy-{chosen.name}.json")
    pack.accept_licence(chosen, args.accept_licence, say=lambda text: print(text, file=sys.stderr), ask=ask)
    with tempfile.TemporaryDirectory(prefix="convert-") as folder:
        file = Path(folder) / f"{chosen.name}.onnx"
        if args.model is None:
            print(f"fetching {chosen.size} bytes from {fetch.host(chosen.address)}", file=sys.stderr)
            fetch.fetch(chosen.address, file, size=chosen.size, sha256=chosen.sha256)
        else:
            fetch.copy(args.model, file, size=chosen.size, sha256=chosen.sha256)
        args.model = file
        from tools.lib.convert.conversion import make  # noqa: PLC0415 - as in convert
        from tools.lib.convert.policy import measure  # noqa: PLC0415 - likewise

        made = make(args)
        policy, figures = measure(made, args, people, Path(folder))
    publish(args.manifest, made.entry, made.content, target, policy)
    return {
        **made.report,
        "policy_measured": figures,
        "manifest": str(args.manifest),
        "policy": str(target),
        "next": f"have the site sign the policy (postern site policy {target}), set models.{made.entry.task} to"
        f" {chosen.name}" + (" and enrol everybody anew" if made.entry.task == "embedder" else ""),
    }


def ask(question: str) -> str:
    """What a person types, empty at the end of the input."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline(MAX_ANSWER)


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what would only fail after minutes; raises ModelError."""
    if (args.pairs is None) != (args.images is None):
        raise ModelError("--pairs and --images go together")
    if TASKS[args.decoder] == "detector" and (args.pairs or args.aligned):
        raise ModelError("--pairs and --aligned are for embedders")
    if min(args.std) <= 0:
        raise ModelError("--std divides pixels and must be above 0")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    say = parser.add_argument
    say("--pack", metavar="NAME", help="a network in models/packs, or a file of that kind: it says what follows itself")
    say("--accept-licence", metavar="SPDX", help="the pack's licence, read before; else it is asked for")
    say("--people", type=Path, metavar="FOLDER", help="one folder per person, for the policy; default: --pictures")
    say("--fill", type=Path, metavar="FOLDER", help="one picture each of further people, who fill its galleries")
    say("--policy", type=Path, metavar="FILE.json", help="where to write it; default: policy-NAME.json by the manifest")
    say("--model", type=existing_file, metavar="FILE.onnx", help="with --pack: its file, fetched by other means")
    say("--name", help="in the manifest, and of the file")
    say("--decoder", choices=sorted(TASKS))
    say("--pictures", type=Path, metavar="FOLDER", help="representative: like what the cameras will see")
    say("--limit", type=int, default=material.MAX_PICTURES, help="at most so many of them; default: %(default)s")
    say("--aligned", action="store_true", help="an embedder's pictures are aligned 112x112 crops already")
    say("--mean", type=per_channel, help="the model sees (pixel - mean) / std: one number or three")
    say("--std", type=per_channel, help="likewise; pixels are 0 to 255")
    say("--colour", choices=["RGB", "BGR"], help="what the model takes; default: RGB")
    say("--size", type=picture_size, metavar="WIDTHxHEIGHT", help="of a model that leaves it open")
    say("--output", type=named, action=_Named, default={}, metavar="NAME=TENSOR", help="the model's name of an output")
    say("--score-threshold", type=float, help="a detector's working point, 0 to 1")
    say(
        "--max-loss",
        type=float,
        help=f"embedder: 1 - mean cosine; detector: share of faces; default: {loss.DEFAULT_LIMITS}",
    )
    say("--max-accuracy-loss", type=float, default=loss.MAX_ACCURACY_LOSS, help="over --pairs; default: %(default)s")
    say("--max-landmark-loss", type=float, default=loss.MAX_LANDMARK_LOSS, help="eye distances; default: %(default)s")
    say("--pairs", type=existing_file, metavar="CSV", help="also compare the accuracy over pairs: columns a, b, same")
    say("--images", type=Path, metavar="FOLDER", help="of the pictures that --pairs names")
    say("--licence", help="SPDX expression of the weights")
    say("--training-data")
    say("--teacher")
    say("--manifest", type=Path, default=DEFAULT_MANIFEST, help="where to list it; default: models/manifest.yaml")
    say("--models", type=Path, default=DEFAULT_MANIFEST, help="manifest of the detector that aligns; likewise")
    say("--detector-name", default="detector-320x240", help="that detector; default: %(default)s")
    say("--embedder-name", default="embedder", help="the policy's, for a detector's pack; default: %(default)s")
    return parser


class _Named(argparse.Action):
    def __call__(self, _parser: object, namespace: argparse.Namespace, values: Any, _option: object = None) -> None:  # noqa: ANN401 - argparse's signature
        namespace.output = {**namespace.output, values[0]: values[1]}


def named(text: str) -> tuple[str, str]:
    name, _, tensor = text.partition("=")
    if not (name and tensor):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TENSOR")
    return name, tensor


def per_channel(text: str) -> tuple[float, float, float]:
    values = [float(item) for item in text.split(",")]
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError("give one number or three, with commas")
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third


def picture_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT")
    return int(width), int(height)


if __name__ == "__main__":
    sys.exit(main())
