# SPDX-License-Identifier: Apache-2.0
"""Measure a listed embedder from one end to the other and write its card, and the policy that follows.

The card says what the file is and learned from, and what it does on people whom no training saw: pairs, single
pictures, decisions, groups, each with its 95 % interval, and the commands that measure these alone. Vectors of people
are kept in ``--vectors-in`` and read again for the same models and pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from agent.inference.manifest import ModelEntry, load_manifest
from tools.lib.evaluate import calibrate, fairness, verification
from tools.lib.evaluate.arguments import existing_file, some
from tools.lib.evaluate.recogniser import DEFAULT_MANIFEST

DETECTOR = "detector-320x240"
SHARDS = 3  # of FairFace, which no training uses


@dataclass(frozen=True, slots=True)
class Data:
    """Folders and files to measure on; ``fill`` may be missing."""

    images: Path
    pairs: Path
    shards: Path
    last: int
    fill: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    say = parser.add_argument
    say("--images", type=Path, required=True, help="one folder per person")
    say("--pairs", type=existing_file, required=True, help="CSV with the columns a, b (paths in --images) and same")
    say("--shards", type=Path, required=True, help="labelled pictures in faces-*.npz, one per person")
    say("--last", type=some, default=SHARDS, help="only the last so many of these; default: %(default)s")
    say("--fill", type=Path, metavar="DIR", help="pictures of further people, one each, for galleries")
    say("--models", type=Path, default=DEFAULT_MANIFEST, help="manifest; default: models/manifest.yaml")
    say("--embedder-name", default="embedder", help="default: %(default)s")
    say("--detector-name", default=DETECTOR, help="default: %(default)s")
    say("--vectors-in", type=Path, required=True, metavar="FOLDER", help="where vectors are kept")
    say("--policy", type=Path, required=True, metavar="POLICY.json", help="where to write the policy")
    say("--out", type=Path, required=True, metavar="CARD.md", help="where to write the card")


def run(args: argparse.Namespace) -> dict[str, Any]:
    data = Data(args.images, args.pairs, args.shards, args.last, args.fill)
    names = args.embedder_name, args.detector_name
    text, report = measured(args.models, *names, data, policy=args.policy, keep=args.vectors_in)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    return {"card": str(args.out), **report}


def measured(
    manifest: Path,
    name: str,
    detector: str,
    data: Data,
    *,
    policy: Path,
    keep: Path,
    made: Sequence[str] = (),
    day: date | None = None,
) -> tuple[str, dict[str, Any]]:
    """The text of a card, and the reports behind it; writes the policy. ``made``: how the file came about."""
    keep.mkdir(parents=True, exist_ok=True)
    models = ["--models", manifest, "--embedder-name", name, "--detector-name", detector]
    fill = ["--fill", data.fill, "--fill-vectors", keep / "fill.npz"] if data.fill else []
    people = ["--images", data.images, *fill, "--vectors", keep / "people.npz", *models]
    report = {
        "pairs": asked(verification, "--images", data.images, "--pairs", data.pairs, *models),
        "decisions": asked(calibrate, *people, "--out", policy),
        "single": asked(calibrate, *people, "--out", keep / "single.json", "--refuse", 0)["decisions"]["1/1"],
        "groups": asked(fairness, "--shards", data.shards, "--last", data.last, *models),
    }
    return card(load_manifest(manifest).entry(name), report, made, day or datetime.now(UTC).date()), report


def asked(module: ModuleType, *words: object) -> dict[str, Any]:
    """The report of one command of ``tools/evaluate``."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    report: dict[str, Any] = module.run(parser.parse_args([str(word) for word in words]))
    return report


def card(entry: ModelEntry, report: dict[str, Any], made: Sequence[str], day: date) -> str:
    """The card as Markdown."""
    pairs, decided, single, groups = (report[name] for name in ("pairs", "decisions", "single", "groups"))
    rows = [
        ("accuracy on balanced pairs", pairs["accuracy"], *pairs["accuracy_95"]),
        *((f"TAR at FAR {far}", value, *pairs["tar_at_far_95"][far]) for far, value in pairs["tar_at_far"].items()),
        *((f"one picture against one, FNMR at FMR {fmr}", *rate) for fmr, rate in single["fnmr_at_fmr"].items()),
        *(
            (f"mean of {kind.replace('/', ' against ')}, FNMR at FMR {fmr}", *rate)
            for kind in ("3/1", "3/3")
            for fmr, rate in decided["decisions"].get(kind, {}).get("fnmr_at_fmr", {}).items()
        ),
        *(
            (f"FNIR of the decision, means of 3 and 3, FPIR {target}", *rate)
            for target, rate in decided["decisions"].get("3/3", {}).get("fnir", {}).items()
        ),
        *(
            (f"worst group's FMR to the geometric mean, {how}", ratio["ratio"], ratio["low"], ratio["high"])
            for how, ratio in groups["worst_to_geometric_mean"].items()
        ),
    ]
    told = "\n".join(f"| {name} | {value:.4g} | {low:.4g} to {high:.4g} |" for name, value, low, high in rows)
    further = "".join(f"- {line}\n" for line in made)
    return f"""# {entry.name}

Written by `tools/evaluate card` or `tools/train ship` on {day.isoformat()}. [The models](../README.md) say what the
figures mean.

- file: `{entry.file}`, {entry.size} bytes, {entry.digest}
- licence: {entry.licence}
- learned from: {entry.training_data}
- teacher: {entry.teacher or "none"}
{further}- measured on {decided["people"]} people in {decided["pictures"]} pictures
  (nobody found in {decided["failed_to_detect"]}), {pairs["pairs"]} pairs,
  {decided["fillers"]} further people, {groups["over_all"]["images"]} labelled pictures; none of them served training
- policy: measured up to a gallery of {decided["measured_references"]}, extrapolated to {decided["covered_references"]}

| measure | value | 95 % |
|---|---|---|
{told}

Intervals: of pairs Wilson's, of all else a bootstrap over people; one of a worst of several leans upwards.

    tools/evaluate verification --images LFW_DEV --pairs PAIRS.csv
    tools/evaluate calibrate --images LFW_DEV --fill FACES --out POLICY.json     # with --refuse 0: single pictures
    tools/evaluate fairness --shards FAIRFACE --last {SHARDS}
"""
