# SPDX-License-Identifier: Apache-2.0
"""``postern config schema``."""

from __future__ import annotations

import argparse
import json

from agent.config import json_schema


def configure(parser: argparse.ArgumentParser) -> None:
    """Take what to print."""
    parser.add_argument("what", choices=["schema"], help="schema: JSON Schema for editors and generators")


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    del arguments
    print(json.dumps(json_schema(), indent=2))
    return 0
