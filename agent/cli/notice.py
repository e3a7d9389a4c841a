# SPDX-License-Identifier: Apache-2.0
"""``postern notice``: the notice to hang up before this unit, made from its configuration."""

from __future__ import annotations

import argparse

from agent.cli.options import add_config, read_config
from agent.cli.words import say, tell
from agent.notices.notice import make_notice, notice_id


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the notice; its identity goes to standard error."""
    config = read_config(arguments)
    say(make_notice(config), end="")
    version, digest = notice_id(config)
    tell(f"consent records name it as notice_version {version}, notice_digest {digest}")
    return 0
