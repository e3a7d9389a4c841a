# SPDX-License-Identifier: Apache-2.0
"""``postern run``: the unit itself, as the service starts it."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys

from agent.cli.options import add_config, read_unit_file
from agent.clock import SystemClock
from agent.disk.dumps import forbid_dumps
from agent.errors import printable
from agent.unit.notify import Notifier
from agent.unit.running import run_unit
from agent.unit.world import World, in_bounded_threads

# Priorities of syslog(3) as the journal reads them from a prefix (sd-daemon(3)).
MAX_LOG_LINE = 2000  # characters
PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def configure(parser: argparse.ArgumentParser) -> None:
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until a signal, or until a recorded camera ends."""
    config = read_unit_file(arguments)
    if config.profile == "production":
        forbid_dumps()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Journal() if "JOURNAL_STREAM" in os.environ else _Line("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    clock = SystemClock()
    watchdog_us = os.environ.get("WATCHDOG_USEC", "0")
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"), int(watchdog_us) if watchdog_us.isdecimal() else 0, clock)

    gc.disable()  # until there is a picture: what a start makes stays, and is not worth looking through

    def on_frame() -> None:
        gc.enable()
        notifier.alive()

    try:
        return run_unit(
            config,
            world=World(clock=clock, background=in_bounded_threads),
            on_frame=on_frame,
            reread=lambda: read_unit_file(arguments),
        )
    finally:
        gc.enable()
        notifier.stopping()


class _Line(logging.Formatter):
    """One message, one line, whatever a peer put into it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        return printable(super().formatMessage(record).replace("\n", " "), MAX_LOG_LINE)


class _Journal(_Line):
    """The message with its priority; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " ")
        return f"<{PRIORITIES.get(record.levelno, 6)}>{text}"
