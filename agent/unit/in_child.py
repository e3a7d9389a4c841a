# SPDX-License-Identifier: Apache-2.0
"""A check of ``postern doctor`` in a child process: a library that kills it, or never answers, ends no other check."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from agent.clock import Clock
from agent.config.schema import Config
from agent.parse.strict_json import decode
from agent.unit.doctor import CHECKS, Check, Finding, examine

MAX_CHECK_S: Final = 150.0  # the slowest: a camera whose first key picture takes two minutes
MAX_FINDINGS_BYTES: Final = 64 * 1024  # a check has a few lines


def examine_in_child(
    name: str, config: Config, clock: Clock, *, within_s: float = MAX_CHECK_S, checks: Mapping[str, Check] = CHECKS
) -> Iterator[Finding]:
    """What ``examine`` says, and one finding more when that killed its process or took longer than ``within_s``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as out:
                for finding in examine(name, config, clock, checks=checks):
                    out.write(msgspec.json.encode(finding) + b"\n")
                    out.flush()
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        content, in_time = _read(reading, within_s)
        if not in_time:
            os.kill(child, signal.SIGKILL)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        _, ended = os.waitpid(child, 0)
    for line in content.splitlines():
        yield decode(line, Finding, MAX_FINDINGS_BYTES)
    if not in_time:
        yield Finding(name, "fault", f"the check did not end within {within_s:g} s: something does not answer")
    elif os.WIFSIGNALED(ended):
        killed = signal.Signals(os.WTERMSIG(ended)).name
        yield Finding(
            name,
            "fault",
            f"the check was killed by {killed}: a library does not fit this processor, install it again",
        )
    elif ended:
        yield Finding(name, "fault", "the check ended without a word: report it")


def _read(descriptor: int, within_s: float) -> tuple[bytes, bool]:
    """Everything up to the end of the pipe, and whether that came in time."""
    content, deadline = b"", time.monotonic() + within_s
    while len(content) < MAX_FINDINGS_BYTES:
        if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
            return content, False
        more = os.read(descriptor, MAX_FINDINGS_BYTES)
        if not more:
            break
        content += more
    return content, True
