# SPDX-License-Identifier: Apache-2.0
"""How soon a new face is tried after others that matched nobody: who shows one after another waits longer each time.

About one of a thousand faces that are shown is taken for somebody (the policy's bound), so nobody is to try thousands
in an evening. What is kept is one length of time that doubles, and from when it counts: not how many there were, not
who, and nothing once a minute passed without another. The first failure costs nobody anything, and no face waits
longer than ``LONGEST_PAUSE_NS``; whoever is being tried, or was named, goes on.
"""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_NS: Final = 500_000_000  # after the second failure within a minute; then 1, 2, and 4 s
LONGEST_PAUSE_NS: Final = 4_000_000_000  # an enrolled person behind a group of visitors waits no longer
FORGOTTEN_NS: Final = 60_000_000_000  # since the last failure


class Pace:
    """The pause before a face that was not tried yet; times are sensor times in ns."""

    def __init__(self) -> None:
        self._failed_ns: int | None = None
        self._pause_ns = 0

    def failed(self, now_ns: int) -> None:
        """A face was compared and named nobody: its first attempt ended, or it went away."""
        again = self._failed_ns is not None and abs(now_ns - self._failed_ns) < FORGOTTEN_NS
        waited = self.holds(now_ns)
        self._pause_ns = min(max(2 * self._pause_ns, FIRST_PAUSE_NS), LONGEST_PAUSE_NS) if again else 0
        if not waited:  # of several who are tried at once each may fail later: the pause of whoever waits does not move
            self._failed_ns = now_ns

    def holds(self, now_ns: int) -> bool:
        """Whether a new face has to wait now."""
        return self._failed_ns is not None and 0 <= now_ns - self._failed_ns < self._pause_ns
