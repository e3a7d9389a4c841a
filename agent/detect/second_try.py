# SPDX-License-Identifier: Apache-2.0
"""When a frame in which nobody is found is looked at a second time, farther off: where something stirs, and seldom.

Who stands at arm's length fills more of the picture than any face that the detector learned from, and is found in the
same frame shown two thirds as large (``Detector.again``). Of 30 FairFace photos, which show faces as large as the frame
allows, in which 640x480 finds nobody, that finds 18, of the 8 near-frontal ones 6; of 26 at 320x240 it finds 5; and it
finds no false face more in 303 natural photos without one at either size. Turning the picture by 20 degrees finds more
and breaks the bar of false faces by itself; its mirror image finds as much, and one false face more.

It costs a run of the detector (0.8 ms at 320x240, 2.2 at 640x480, and a second look at what that proposes) five times a
second at most, and nothing at a door at which nothing changes.
"""

from __future__ import annotations

PAUSE_NS = 200_000_000  # between two second tries, 200 ms: a probe's crops are as far apart, and no track dies in it


class SecondTry:
    """Of one camera."""

    def __init__(self) -> None:
        self._tried_ns: int | None = None

    def due(self, now_ns: int, *, found: bool, stirs: bool) -> bool:
        """Whether a frame that was looked at is looked at again; it is then taken to be.

        ``found``: the first look found somebody. ``stirs``: something changed, or somebody acts or is followed.
        """
        if found or not stirs or (self._tried_ns is not None and 0 <= now_ns - self._tried_ns < PAUSE_NS):
            return False
        self._tried_ns = now_ns
        return True
