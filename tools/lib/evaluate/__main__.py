# SPDX-License-Identifier: Apache-2.0
"""Measure models on pictures: the command line of ``tools/evaluate``.

Progress goes to standard error. Standard output has a table, or with ``--json`` one exact JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

from agent.errors import PosternError
from tools.lib.evaluate import (
    calibrate,
    card,
    cover,
    detection,
    extrapolation,
    fairness,
    identification,
    pad,
    pose,
    unlinkability,
    verification,
)

COMMANDS = {
    "verification": (verification, "1:1 over listed pairs"),
    "identification": (identification, "open-set 1:N over one folder per person"),
    "detection": (detection, "faces found, false faces, landmark error"),
    "card": (card, "a listed embedder from one end to the other, and its card"),
    "cover": (cover, "faces left to be recognised in the pictures of the web console"),
    "calibrate": (calibrate, "impostor scores, and the matching policy that follows"),
    "extrapolation": (extrapolation, "whether the policy's tail holds for people whom it did not see"),
    "unlinkability": (unlinkability, "whether two sites' templates of the same people can be linked or inverted"),
    "fairness": (fairness, "false matches within groups of a labelled set"),
    "pad": (pad, "how often the challenge lets attacks and people pass"),
    "pose": (pose, "how heads are turned, against a peer's landmarks and drawn heads"),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/evaluate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        report = args.run(args)
    except (PosternError, OSError) as error:  # Pillow's errors about a broken picture are OSErrors
        print(f"tools/evaluate: {error}", file=sys.stderr)
        return error.exit_status if isinstance(error, PosternError) else 2
    print(json.dumps(finite(report), allow_nan=False) if args.json else "\n".join(table(report)))
    return 0


def finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a report in which every number is one of JSON: an infinite threshold becomes null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(report: dict[str, Any], indent: str = "") -> list[str]:
    """Return the lines of a report: names on the left, records of one shape as rows under a common head."""
    lines = []
    width = max((len(str(key)) for key in report), default=0)
    for key, value in report.items():
        if isinstance(value, dict) and value and all(isinstance(item, dict) for item in value.values()):
            lines += [f"{indent}{key}", *rows(value, f"{indent}  ")]
        elif isinstance(value, dict):
            lines += [f"{indent}{key}", *table(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key:<{width}}  {text(value)}")
    return lines


def rows(records: dict[str, dict[str, Any]], indent: str) -> list[str]:
    """Return records as rows of one table."""
    columns = list(dict.fromkeys(column for record in records.values() for column in record))
    cells = [["", *columns]]
    cells += [[name, *(text(record.get(column, "")) for column in columns)] for name, record in records.items()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns) + 1)]
    return [
        indent + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]


def text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as people read it: four significant digits are more than a measurement holds."""
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"
    if isinstance(value, list):
        return " ".join(map(text, value))
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
