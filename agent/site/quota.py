# SPDX-License-Identifier: Apache-2.0
"""How much of one sender the site's service reads: a unit or card that floods it keeps nobody else waiting.

What is too much is dropped unread. An honest unit says again whatever it was: health each minute, a request to join
each ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from agent.clock import Bucket, Clock
from agent.errors import printable


class Share(NamedTuple):
    """Messages that are read at once, and then for each second."""

    burst: int
    per_second: float


UNIT: Final = Share(30, 0.5)  # health each minute, what is retained of it after a start, and an answer to each command
JOINING: Final = Share(5, 0.2)  # each of these opens the site's folder; a unit asks each ten seconds
MAX_SENDERS: Final = 10_000  # names that are remembered; a broker can make up more
TELL_S: Final = 3600.0  # between two sentences about the same sender


class Quota:
    """One bucket for each sender; ``tell`` is handed a sentence when one is too loud."""

    def __init__(self, clock: Clock, tell: Callable[[str], None]) -> None:
        self._clock, self._tell = clock, tell
        self._buckets: dict[str, Bucket] = {}
        self._told_ns: dict[str, int] = {}

    def admits(self, sender: str, share: Share) -> bool:
        """Whether one more message of ``sender`` is to be read."""
        now_ns = self._clock.monotonic_ns()
        bucket = self._buckets.pop(sender, None) or Bucket(*share)
        if len(self._buckets) >= MAX_SENDERS:
            gone = next(iter(self._buckets))  # who was silent for longest
            del self._buckets[gone]
            self._told_ns.pop(gone, None)
        self._buckets[sender] = bucket
        if bucket.take(now_ns):
            return True
        told_ns = self._told_ns.get(sender)
        if told_ns is None or now_ns - told_ns >= TELL_S * 1e9:
            self._told_ns[sender] = now_ns
            self._tell(f"{printable(sender)} sends more than it may: what is too much is not read")
        return False
