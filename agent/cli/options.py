# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.config import Config, load_config

DEFAULT_CONFIG = Path("/etc/postern/config.yaml")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let the command take the unit's configuration."""
    parser.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"configuration ({DEFAULT_CONFIG})"
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """Load what ``add_config`` took; raises ConfigError."""
    return load_config(arguments.config)
