# SPDX-License-Identifier: Apache-2.0
"""Measure the product and its peers side by side, in turns, in one run.

Sections: detector, embedder, int8-peak, gallery, outbox, verifier, install, pipeline, service; all by default.
Figures are medians with the 10th and 90th percentile. Exit status 0 says that everything was measured, not that
every bar holds: the table says that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import agent
from agent.errors import PosternError
from tools.lib.bench import networks, running, stores
from tools.lib.bench.arithmetic import instruction_sets
from tools.lib.bench.clip import ROOT, demo_clip, frame_count, frame_of
from tools.lib.bench.effort import FULL, QUICK, Effort
from tools.lib.bench.installed import install_section
from tools.lib.bench.markdown import markdown
from tools.lib.bench.peers import BLAZEFACE, MOBILEFACENET, YUNET, PeerModels, find_peers
from tools.lib.bench.report import Section, as_json, table
from tools.lib.demo.site import CommandError

SECTIONS = ("detector", "embedder", "int8-peak", "gallery", "outbox", "verifier", "install", "pipeline", "service")
FACE_AT_S = 3.5  # of the demo's scene: person-01 stands in the middle and faces the camera
FACE = (slice(244, 356), slice(584, 696))  # about where the face is then
PEERS_HELP = (
    f"with {YUNET} and {MOBILEFACENET}, and {BLAZEFACE} where it is to be measured, too; "
    "the wheel of mediapipe 0.10.21 has it in mediapipe/modules/face_detection"
)
PACKAGES = ("ai-edge-litert", "numpy", "av", "opencv-python-headless", "onnxruntime")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help=PEERS_HELP)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does it work, roughly how fast")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    form.add_argument("--markdown", action="store_true", help="print the tables of the README instead")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="where clips are kept: %(default)s")
    args = parser.parse_args()
    unknown = set(args.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"there is no section {min(unknown)}; known: {', '.join(SECTIONS)}")
    chosen = [name for name in SECTIONS if not args.sections or name in args.sections]
    facts, as_tables = {"command": _command(args), **machine()}, not (args.json or args.markdown)
    if as_tables:
        print("\n".join(f"{key}: {value}" for key, value in facts.items()), end="\n\n", flush=True)
    sections = []
    try:
        for section in measure(chosen, find_peers(args.peers), QUICK if args.quick else FULL, args.out):
            sections.append(section)
            if as_tables:
                print("\n".join(table(section)), end="\n\n", flush=True)
    except (CommandError, PosternError) as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 1
    facts["load_after"] = load()
    if args.json:
        print(json.dumps(as_json(sections, facts)))
    elif args.markdown:
        print("\n".join(markdown(sections, facts)))
    else:
        print(f"load after: {facts['load_after']}")
    return 0


def _command(args: argparse.Namespace) -> str:
    """What was asked for, without where the folder of the peers lies on this machine."""
    words = ["tools/bench", *args.sections]
    words += ["--peers FOLDER"] if args.peers is not None else []
    words += [f"--{name}" for name in ("quick", "json", "markdown") if getattr(args, name)]
    return " ".join(words)


def measure(chosen: list[str], peers: PeerModels | None, effort: Effort, out: Path) -> Iterator[Section]:
    """Measure the chosen sections, giving each as soon as it is there; those of the running service last."""
    simple: dict[str, Callable[[], Section]] = {
        "detector": lambda: networks.detector_section(_picture(out, effort), peers, effort),
        "embedder": lambda: networks.embedder_section(_picture(out, effort)[FACE].copy(), peers, effort),
        "int8-peak": lambda: networks.peak_section(effort, peers),
        "gallery": lambda: stores.gallery_section(effort),
        "outbox": lambda: stores.outbox_section(out, effort),
        "verifier": lambda: stores.verifier_section(out, effort),
        "install": install_section,
    }
    for name, section in simple.items():
        if name in chosen:
            print(f"tools/bench: {name}", file=sys.stderr)
            yield section()
    if not simple.keys() >= set(chosen):
        yield from running.sections(out, peers, effort, chosen)


def _picture(out: Path, effort: Effort) -> NDArray[np.uint8]:
    return frame_of(demo_clip(out, effort.clip_s), frame_count(FACE_AT_S))


def machine() -> dict[str, Any]:
    """On what this was measured."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "postern": agent.__version__,
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "instructions": instruction_sets(Path("/proc/cpuinfo").read_text()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "load_before": load(),
    }


def load() -> str:
    """Runnable processes over the last minute, five and fifteen."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    sys.exit(main())
