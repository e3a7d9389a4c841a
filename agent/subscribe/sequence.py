# SPDX-License-Identifier: Apache-2.0
"""Who came past several units in a given order within a time: the checkpoints of a running track.

Made of verified matches alone and in memory alone. It follows pseudonyms, so a sequence ends with their week, and
subjects that are sealed to a consumer cannot be followed. Times are the units' own: an event whose unit did not know
the time is no checkpoint. Events may come late and in any order, as after an outage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import msgspec

from agent.errors import RefusedError
from agent.protocol.event import MatchData
from agent.protocol.names import check_name
from agent.subscribe.verify import VerifiedEvent

MAX_CHECKPOINTS = 16
MAX_FOLLOWED = 10_000  # people under way; beyond it whoever was seen longest ago begins anew
MAX_WITHIN_S = 7 * 24 * 3600  # pseudonyms last a week


class Passed(msgspec.Struct, frozen=True):
    """``subject`` came past all ``units`` in their order; ``first`` and ``last`` are the times of its ends."""

    subject: str
    units: tuple[str, ...]
    first: datetime
    last: datetime

    @property
    def seconds(self) -> int:
        return int((self.last - self.first).total_seconds())


class Checkpoints:
    """Follows people past ``units``, at most ``within_s`` seconds from the first to the last. Raises RefusedError."""

    def __init__(self, units: Sequence[str], within_s: int) -> None:
        self._units = tuple(check_name("unit", unit) for unit in units)
        if not 2 <= len(self._units) <= MAX_CHECKPOINTS or len(set(self._units)) != len(self._units):
            raise RefusedError(f"a sequence has 2 to {MAX_CHECKPOINTS} units, each once: --sequence start,ridge,finish")
        if not 1 <= within_s <= MAX_WITHIN_S:
            raise RefusedError(f"a sequence takes 1 s to a week ({MAX_WITHIN_S}): correct --within")
        self._within_s = within_s
        self._under_way: OrderedDict[tuple[str, str, str], dict[str, datetime]] = OrderedDict()

    def take(self, event: VerifiedEvent) -> Passed | None:
        """What this event completes, if anything; each passage is told once."""
        data = event.event.data
        if not isinstance(data, MatchData) or data.clock != "synced" or event.unit not in self._units:
            return None
        key = (data.audience, data.epoch, data.subject)
        times = self._under_way.pop(key, {})
        times[event.unit] = max(event.event.moment, times.get(event.unit, event.event.moment))
        self._under_way[key] = times
        while len(self._under_way) > MAX_FOLLOWED:
            self._under_way.popitem(last=False)
        if not self._is_complete(times):
            return None
        del self._under_way[key]
        return Passed(data.subject, self._units, times[self._units[0]], times[self._units[-1]])

    def _is_complete(self, times: dict[str, datetime]) -> bool:
        if len(times) < len(self._units):
            return False
        ordered = [times[unit] for unit in self._units]
        took_s = (ordered[-1] - ordered[0]).total_seconds()
        return all(earlier < later for earlier, later in pairwise(ordered)) and took_s <= self._within_s
