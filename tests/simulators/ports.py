# SPDX-License-Identifier: Apache-2.0
"""Ports for servers that a test starts: nobody else gets one between its choice and the start of the server.

The kernel gives its own from ``ip_local_port_range`` to every connection and every other test, and a client that tries
again and again to reach a server that is down may even be connected to itself there. So they are taken below that
range, in blocks: a process has one to itself, by a name that is free again when it ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, BLOCK = 10_000, 100  # the first port, and how many a process has
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_held: list[socket.socket] = []  # as long as this process lives


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens at, and that nobody else is given for the next hundred calls."""
    for port in _ports():
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody's of this machine, or not yet given up by the last connection
                continue
        return port
    raise AssertionError(f"no port is free in this process's block of {BLOCK}")


@cache
def _block() -> Iterator[int]:
    """The next ports of this process, round and round."""
    count = (int(RANGE.read_text().split()[0]) - FIRST) // BLOCK
    assert count > 0, f"{RANGE}: the kernel's own ports begin too low to leave any to tests"
    for number in range(count):
        block = (os.getpid() + number) % count
        name = socket.socket(socket.AF_UNIX)
        try:
            name.bind(f"\0postern-tests-ports-{block}")
        except OSError:
            name.close()
            continue
        _held.append(name)
        first = FIRST + block * BLOCK
        return _round(first)
    raise AssertionError("all blocks of ports are taken by tests that run")


def _round(first: int) -> Iterator[int]:
    while True:
        yield from range(first, first + BLOCK)


def _ports() -> Iterator[int]:
    """As many as a block has, beginning where the last call ended."""
    return (next(_block()) for _ in range(BLOCK))
