# SPDX-License-Identifier: Apache-2.0
"""Who is here: a subject has arrived when first confirmed and has left when not confirmed for a hold time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from agent.match.records import Match
from agent.protocol.subject import SubjectId

MAX_PRESENT = 1024  # subjects held present at one camera; beyond it the one seen longest ago has left


class PresenceChange(msgspec.Struct, frozen=True):
    """A subject arrived, or left; ``timestamp_ns`` is when it was first, or last, seen (sensor time)."""

    subject: SubjectId
    state: Literal["arrived", "left"]
    zone: str
    timestamp_ns: int


class Presence:
    """Holds when each present subject was last seen, and nothing of anybody else."""

    def __init__(self, *, hold_ns: int = 60_000_000_000, max_present: int = MAX_PRESENT) -> None:
        self._hold_ns = hold_ns
        self._max_present = max_present
        self._present: dict[SubjectId, Match] = {}  # in the order of the last sighting

    def update(self, seen: Iterable[Match], now_ns: int) -> list[PresenceChange]:
        """Take the subjects confirmed in this frame (``Decision.seen``), possibly none, and say what changed.

        Whoever brought their reference along is not held: of them nothing is kept once the window ends.
        """
        changes = []
        for match in seen:
            if match.method == "token":
                continue
            previous = self._present.pop(match.subject, None)
            if previous is not None and previous.zone != match.zone:
                changes.append(_left(previous))
                previous = None
            if previous is None:
                changes.append(PresenceChange(match.subject, "arrived", match.zone, match.timestamp_ns))
            self._present[match.subject] = match
        for match in list(self._present.values()):
            expired = now_ns - match.timestamp_ns >= self._hold_ns
            if not expired and len(self._present) <= self._max_present:
                break
            del self._present[match.subject]
            changes.append(_left(match))
        return changes

    def forget_subject(self, subject: SubjectId) -> None:
        """Drop a subject whose reference was erased, without a word: it no longer exists for this unit."""
        self._present.pop(subject, None)


def _left(match: Match) -> PresenceChange:
    return PresenceChange(match.subject, "left", match.zone, match.timestamp_ns)
