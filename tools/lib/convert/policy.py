# SPDX-License-Identifier: Apache-2.0
"""The matching policy of a model that is not listed yet, measured as ``tools/evaluate calibrate`` does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tools.lib.convert.conversion import Made
from tools.lib.evaluate import calibrate
from tools.lib.manifest import staged

TOLD = (
    "people", "people_with_pictures", "fillers", "failed_to_detect", "mirror_limit", "threshold_for_gallery",
    "measured_references", "covered_references",
)  # fmt: skip


def measure(made: Made, args: argparse.Namespace, people: Path, folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the unsigned policy and its figures, measured with ``made`` beside the models of ``args.models``.

    ``folder`` is a temporary one. Raises RefusedError when the pictures are too few, and ModelError.
    """
    models = staged(args.models, folder / "models", made.entry, made.content)
    out = folder / "policy.json"
    chosen = {"embedder": args.embedder_name, "detector": args.detector_name} | {made.entry.task: made.entry.name}
    words = ["--images", people, "--out", out, "--models", models]
    words += ["--detector-name", chosen["detector"], "--embedder-name", chosen["embedder"]]
    words += ["--fill", args.fill] if args.fill else []
    parser = argparse.ArgumentParser()
    calibrate.add_arguments(parser)
    print(f"measuring the policy of {made.entry.name}", file=sys.stderr)
    report = calibrate.run(parser.parse_args([str(word) for word in words]))
    figures = {name: report[name] for name in TOLD}
    figures["fnir_of_the_decision"] = report["decisions"].get("3/3", {}).get("fnir", {})
    return out.read_bytes(), figures
