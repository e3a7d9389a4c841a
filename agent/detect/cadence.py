# SPDX-License-Identifier: Apache-2.0
"""Which frames need no look: every other one, unless somebody moves, acts or is due of whom something is to be decided.

Somebody who stands is followed as well at half the camera's rate, before the dwell time is over and after, and so is
somebody who walks to the door, past it or away, or was matched; and where something stirs and nobody is found, whoever
comes is found as well. While a track is new or runs, or somebody at the door moves or is hidden of whom nothing is
known yet, each frame is looked at, and so is the one in which somebody is first admitted and each in which a crop is
wanted. Two frames in a row are never spared: whatever happens is seen one frame later at most.
"""

from __future__ import annotations

# Between two looks, 150 ms: in it a step moves a face by its own width. The frames of slower cameras are all looked at.
LONGEST_GAP_NS = 150_000_000


class Cadence:
    """Of one camera; ``every_frame`` spares none."""

    def __init__(self, *, every_frame: bool = False) -> None:
        self._longest_ns = 0 if every_frame else LONGEST_GAP_NS
        self._seen_ns = 0
        self._last = False
        self.spared = 0

    def spares(self, timestamp_ns: int, *, free: bool) -> bool:
        """Whether this frame is not looked at; frames come in order, and each is asked about once.

        ``free``: as far as the last look showed, nobody needs one now. How long the gap to the next look will be is
        told by the last two frames.
        """
        step_ns, self._seen_ns = timestamp_ns - self._seen_ns, timestamp_ns
        self._last = free and not self._last and 0 < 2 * step_ns <= self._longest_ns
        self.spared += self._last
        return self._last
