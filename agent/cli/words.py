# SPDX-License-Identifier: Apache-2.0
"""The one place where the command line prints: whatever a peer put into a text, it is no command to the terminal."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from agent.errors import printable

MAX_LINE = 1_000_000  # characters; the longest, a unit's answer as JSON, has about 16 000


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print lines to standard output, or ``stream``: of what is no line end, printable characters alone.

    A foreign text that must not begin a line of its own is passed through ``printable`` before.
    """
    lines = (printable(line, MAX_LINE) for line in text.split("\n"))
    print("\n".join(lines), end=end, file=stream or sys.stdout, flush=True)


def tell(text: str, *, end: str = "\n") -> None:
    """Print lines to standard error, as ``say`` does."""
    say(text, end=end, stream=sys.stderr)


def tell_notice(text: str) -> None:
    """Tell what others have a say in, as one line."""
    tell(text.replace("\n", " "))


def print_for_nobody() -> None:
    """Have standard output go nowhere, once its reader went away, as ``head`` does: its end is no fault to tell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
