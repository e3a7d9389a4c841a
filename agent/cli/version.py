# SPDX-License-Identifier: Apache-2.0
"""``postern version``."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

import agent
from agent.cli.words import say
from agent.config.load import CONFIG_SCHEMA_ID

RUNTIMES = ("ai-edge-litert", "tflite-runtime")


def configure(_: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(_: argparse.Namespace) -> int:
    say(f"postern {agent.__version__}")
    say(f"configuration {CONFIG_SCHEMA_ID}")
    say(f"python {platform.python_version()} {platform.machine()}")
    for name in RUNTIMES:
        try:
            say(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return 0
