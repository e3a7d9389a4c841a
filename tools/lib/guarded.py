# SPDX-License-Identifier: Apache-2.0
"""Runs a program of tools/ by the name of its module: ``python -m tools.lib.guarded demo --json``.

Whatever it raises that it did not foresee is one sentence, and where the details are; never a traceback. What ends it
from outside (Ctrl-C, SIGTERM, a terminal that is closed) ends what it started as well.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

from agent.cli.words import fill_streams, print_for_nobody
from agent.errors import PosternError, StopError, in_one_sentence

INTERRUPTED = 128 + signal.SIGINT


def main() -> int:
    """Run the module that the first argument names with the others; its exit status is passed on by SystemExit."""
    fill_streams()
    name = sys.argv[1]
    del sys.argv[0]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it as ignored
    try:
        runpy.run_module(f"tools.lib.{name}", run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        print_for_nobody()
        return PosternError.exit_status
    except Exception as error:
        if os.environ.get("POSTERN_DEBUG") == "1":
            raise
        sentence, status = _told(error)
        print(f"{name}: {sentence}", file=sys.stderr)
        return status
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature is signal's
    """Leave through every ``with`` and ``finally``: brokers, units and cameras that were started end there."""
    for more in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(more, signal.SIG_IGN)  # who asks twice would cut that short, and leave the rest running
    raise SystemExit(128 + number)


def _told(error: Exception) -> tuple[str, int]:
    if isinstance(error, PosternError):
        return str(error), error.exit_status
    if isinstance(error, subprocess.TimeoutExpired):
        program = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd[:4]))
        return f"'{program} …' did not end within {error.timeout:g} s: this machine is too slow or too busy", 75
    if isinstance(error, subprocess.CalledProcessError):
        return f"a program that it needs ended with status {error.returncode}", StopError.exit_status
    return in_one_sentence(error)


if __name__ == "__main__":
    sys.exit(main())
