# SPDX-License-Identifier: Apache-2.0
"""``postern door-off``: switch every output line off. The service manager runs it when the unit has ended, however."""

from __future__ import annotations

import argparse

from agent.cli.options import add_config, read_config
from agent.cli.words import say, tell
from agent.errors import DeviceLostError
from agent.unit.by_hand import outputs_off


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take each line, off, and let go of it; what cannot be taken is told."""
    problems = outputs_off(read_config(arguments))
    for problem in problems:
        tell(f"postern: {problem}")
    if not problems:
        say("every output is off")
    return DeviceLostError.exit_status if problems else 0
