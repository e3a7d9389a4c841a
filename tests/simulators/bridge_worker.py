# SPDX-License-Identifier: Apache-2.0
"""A nursery of bridges: forks one for each line on standard input, which runs until it is killed.

Argument: the bridge's configuration. What it tells is appended to ``told`` beside it, a failure to ``failed``.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import agent.bridge.sql
import agent.bridge.webhook  # noqa: F401 - loaded once, before the forks: a bridge is to be killed at work
from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import SystemClock
from tests.simulators.nursery import fork_on_each_line


def work(file: Path) -> None:
    """Run until the end."""
    with (file.parent / "told").open("a") as told:
        bridge = Bridge(
            load_settings(file),
            clock=SystemClock(),
            random=secrets.token_bytes,
            on_notice=lambda text: print(text, file=told, flush=True),
        )
        bridge.run()


def main() -> None:
    file = Path(sys.argv[1])
    fork_on_each_line(lambda: work(file), file.parent / "failed")


if __name__ == "__main__":
    main()
