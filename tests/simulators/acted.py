# SPDX-License-Identifier: Apache-2.0
"""An act on the spot that is done already, for tests of what comes after it; and a gate for everybody."""

from __future__ import annotations

from collections.abc import Sequence

from agent.detect.gate import ButtonGate, FaceLimits
from agent.detect.track import Track
from agent.door.on_the_spot import Asked, Fit, Key, key_of

ANYWHERE = ButtonGate(zone="door", limits=FaceLimits(32, 60.0))


class Acted:
    """Whoever is seen first has acted."""

    def __init__(self) -> None:
        self._who: Key | None = None

    def press(self, now_ns: int) -> None:
        raise AssertionError("nothing is pressed here")

    def look(self, tracks: Sequence[Track], fit: Fit, now_ns: int) -> Key | Asked:
        self._who = self._who or next((key_of(one) for one in tracks), None)
        return self._who or (-1, -1)
