# SPDX-License-Identifier: Apache-2.0
"""``postern retire UNIT``: a revoked unit cannot say that it is gone; whoever runs the site does, at the broker."""

from __future__ import annotations

import argparse

from agent.cli.session import add_operator, broker_settings, read_trusted
from agent.cli.words import tell
from agent.clock import SystemClock
from agent.site.retire import retire


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit")
    add_operator(parser)


def run(arguments: argparse.Namespace) -> int:
    _, trusted = read_trusted(arguments)
    retire(broker_settings(arguments), arguments.unit, trusted=trusted, clock=SystemClock())
    tell(f"{arguments.unit} is told to be offline; its info and its discovery are gone")
    return 0
