# SPDX-License-Identifier: Apache-2.0
"""Commands of ``postern`` as somebody types them, in this process: a site is made of ten, and each start takes a while.

That they do as programs what they do here is shown by ``tools/demo`` and by the tests of each command.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from agent.cli import main
from tools.lib.demo.site import CommandError


def typed(*words: str | Path, stdin: str | None = None) -> str:
    """The standard output of a command; CommandError with what it said when it ended otherwise than well."""
    said, told = io.StringIO(), io.StringIO()
    with _process_as_it_was(), redirect_stdout(said), redirect_stderr(told):
        sys.stdin = io.StringIO(stdin or "")
        status = main([str(word) for word in words])
    if status != 0:
        raise CommandError(f"postern {words[0]} ended with status {status}: {told.getvalue().strip()}")
    return said.getvalue()


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """A command is the last that its own process does: what it sets for the whole of it is taken back."""
    stdin, mask = sys.stdin, os.umask(0o077)
    os.umask(mask)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        sys.stdin = stdin
        os.umask(mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
