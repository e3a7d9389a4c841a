# SPDX-License-Identifier: Apache-2.0
"""A nursery of bridges: forks one for each line on standard input, which runs until it is killed.

Argument: the bridge's configuration. What it tells is appended to ``told`` beside it, a failure to ``failed``.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import agent.bridge.sql
import agent.bridge.webhook  # noqa: F401 - loaded once, before the forks: a bridge is to be killed at work
from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.clock import SystemClock


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
    """Fork on each line; say the child's number, and when it is gone."""
    file = Path(sys.argv[1])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(file)
            except Exception as error:  # noqa: BLE001  # whatever it is, the test has to hear of it
                with (file.parent / "failed").open("a") as failed:
                    print(f"{type(error).__name__}: {error}", file=failed)
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
