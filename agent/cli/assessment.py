# SPDX-License-Identifier: Apache-2.0
"""``postern assessment``: the impact assessment of this unit as Markdown, with what is left to answer in <brackets>."""

from __future__ import annotations

import argparse

from agent.cli.options import add_config, read_config
from agent.cli.words import say
from agent.notices.assessment import make_assessment


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    say(make_assessment(read_config(arguments)), end="")
    return 0
