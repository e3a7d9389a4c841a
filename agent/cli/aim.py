# SPDX-License-Identifier: Apache-2.0
"""``postern aim``: what the camera sees now and why a face is not accepted, in words, for whoever holds the camera.

No picture is shown or stored, and no embedder is loaded: nothing here can recognise anybody.
"""

from __future__ import annotations

import argparse
import sys

from agent.cli.options import add_config, drop_root, read_config, seconds
from agent.cli.words import say
from agent.clock import SystemClock
from agent.config.told import in_force
from agent.unit.aim import MAX_SECONDS, lines


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=seconds, default=MAX_SECONDS, help="stop after this time; else with Ctrl-C")
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a line twice a second; on a terminal each one replaces the one before."""
    config = read_config(arguments)
    drop_root(config)
    start, end = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
    for line in lines(in_force(config), SystemClock(), seconds=arguments.seconds):
        sys.stdout.write(start)
        say(line, end=end)
    return 0
