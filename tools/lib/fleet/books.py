# SPDX-License-Identifier: Apache-2.0
"""Where what was not delivered is: read from the outboxes of units that have stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Numbers of one unit that nobody verified.

    ``waiting``: the broker did not take them yet, so that they come as soon as it does. ``kept``: it took them, and the
    unit would say them again to whoever asks. ``gone`` are nowhere.
    """

    waiting: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()


def find(outbox: Path, missing: Iterable[int]) -> Undelivered:
    """Where the missing numbers are."""
    numbers = sorted(missing)
    if not numbers:
        return Undelivered()
    with closing(sqlite3.connect(f"{outbox.absolute().as_uri()}?mode=ro", uri=True)) as database:
        waiting = {seq for (seq,) in database.execute("SELECT seq FROM event")}
        kept = {seq for (seq,) in database.execute("SELECT seq FROM kept")}
    return Undelivered(
        tuple(seq for seq in numbers if seq in waiting),
        tuple(seq for seq in numbers if seq in kept - waiting),
        tuple(seq for seq in numbers if seq not in waiting | kept),
    )
