# SPDX-License-Identifier: Apache-2.0
"""The keeper of the output lines as its own tests see it: a board for its lines, and this process's children."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.simulators.broker import PATIENCE_S
from tools.lib.rig.board import Board, serve


@contextmanager
def served_board(folder: Path) -> Iterator[tuple[Board, Path]]:
    """A board, and the socket at which a keeper finds it."""
    board, path = Board(time.monotonic), folder / "board"
    with serve(board, path):
        yield board, path


def children() -> list[int]:
    """Processes that this one's main thread started."""
    me = os.getpid()
    return [int(one) for one in Path(f"/proc/{me}/task/{me}/children").read_text().split()]


def until(true: Callable[[], bool]) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < PATIENCE_S
        time.sleep(0.002)
    return time.monotonic() - began
