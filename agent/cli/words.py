# SPDX-License-Identifier: Apache-2.0
"""The one place where the command line prints: whatever a peer put into a text, it is no command to the terminal."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from agent.errors import StorageError, printable

MAX_LINE = 1_000_000  # characters; the longest, a unit's answer as JSON, has about 16 000


def say(text: str, *, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print lines to standard output, or ``stream``: of what is no line end, printable characters alone.

    A foreign text that must not begin a line of its own is passed through ``printable`` before.
    """
    lines = (printable(line, MAX_LINE) for line in text.split("\n"))
    put("\n".join(lines) + end, stream or sys.stdout)


def tell(text: str, *, end: str = "\n") -> None:
    """Print lines to standard error, as ``say`` does."""
    say(text, end=end, stream=sys.stderr)


def put(text: str, stream: TextIO | None) -> None:
    """Write ``text`` as it is, at once. Raises StorageError where the disk behind standard output takes no more.

    What cannot be told on standard error is told nobody: the act was done all the same.
    """
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        if stream is sys.stderr:
            return
        print_for_nobody()  # else what waits to be written is tried again at the end
        raise StorageError(
            f"what this prints cannot be written ({error.strerror}): make room, or send it elsewhere"
        ) from error


def tell_notice(text: str) -> None:
    """Tell what others have a say in, as one line."""
    tell(text.replace("\n", " "))


def hand(text: str) -> None:
    """Print what is told once, such as a code, to standard error. StorageError where nobody could read it there."""
    if isinstance(sys.stderr, Nowhere):
        raise StorageError("standard error is closed, and this is told there once: send it to a terminal or a file")
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError as error:
        raise StorageError(
            f"what is told once cannot be written to standard error ({error.strerror}): send it to a terminal"
        ) from error


class Nowhere(io.TextIOWrapper):
    """What stands in the place of a stream that was closed by whoever started this."""


def fill_streams() -> None:
    """Have a stream that was closed by whoever started this go nowhere.

    Its number would go to the next file that is opened, such as a log, and what a library writes would land there.
    """
    for name, mode in (("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            setattr(sys, name, Nowhere(open(nowhere, mode, closefd=False), encoding="utf-8"))  # noqa: SIM115


def print_for_nobody() -> None:
    """Have standard output go nowhere, once its reader went away, as ``head`` does: its end is no fault to tell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
