# SPDX-License-Identifier: Apache-2.0
"""``postern bridge``: verified events for webhooks, databases, Home Assistant and Prometheus."""

from __future__ import annotations

import argparse
import secrets
import signal
import tempfile
from pathlib import Path

from agent.bridge.demo import play
from agent.bridge.service import Bridge
from agent.bridge.settings import load_settings
from agent.bridge.store import Store
from agent.cli.words import say, tell_notice
from agent.clock import SystemClock
from agent.errors import RefusedError
from agent.parse.strict_json import dumps


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, nargs="?", metavar="FILE", help="the bridge's configuration")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="check the configuration and its files, and end")
    what.add_argument("--dead", action="store_true", help="show what outputs would not take, and end (bridge stopped)")
    what.add_argument("--demo", action="store_true", help="show what a bridge does: no broker, no configuration")


def run(arguments: argparse.Namespace) -> int:
    """Run until stopped; or one of the shorter things."""
    if arguments.demo:
        with tempfile.TemporaryDirectory(prefix="postern-bridge-") as folder:
            for line in play(Path(folder), clock=SystemClock(), random=secrets.token_bytes):
                say(line)
        return 0
    if arguments.config is None:
        raise RefusedError("give the bridge's configuration, or --demo to see what a bridge does")
    settings = load_settings(arguments.config)
    if arguments.dead:
        store = Store(settings.state / "bridge.db", outputs=(), clock=SystemClock())
        for letter in store.dead():
            told = {"output": letter.output, "key": letter.key, "at_s": letter.at_s, "reason": letter.reason}
            say(dumps({**told, "kind": letter.body.kind, "unit": letter.body.unit, "seq": letter.body.seq}))
        store.close()
        return 0
    bridge = Bridge(settings, clock=SystemClock(), random=secrets.token_bytes, on_notice=tell_notice)
    if arguments.check:
        try:
            bridge.check()
        finally:
            bridge.close()
        say(f"{arguments.config}: {len(settings.outputs)} outputs; all files can be read")
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: bridge.stop())
    bridge.run()
    return 0
