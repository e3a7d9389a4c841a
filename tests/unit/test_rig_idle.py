# SPDX-License-Identifier: Apache-2.0
"""What ``tools/rig idle`` reads of a unit that ended, and which door it measures."""

from __future__ import annotations

from tools.lib.rig.idle import KINDS, Pace, empty_room, pace

LOG = [
    "10:00 346 frames in 23.0 s",
    "10:00 stage frame: 346 times, p50 1500 us, p95 2250 us",
    "10:00 stage change: 346 times, p50 8 us, p95 235 us",
]


def test_what_a_unit_says_of_its_frames_is_read() -> None:
    assert pace(LOG) == Pace(346, 23.0, 1.5, 2.25)
    assert pace(LOG[1:]) is None
    assert pace(["0 frames in 0.0 s", LOG[1]]) is None


def test_one_of_the_two_has_everything_at_its_door_and_nobody_comes() -> None:
    bare, door = (empty_room(kind, 5.0) for kind in KINDS)
    assert not bare.changes()
    changes = door.changes()
    assert (changes["liveness"], changes["liveness_parts"]) == ("require", ["challenge", "passive"])
    assert changes["rules"]
    assert changes["outputs"]
    for one in (bare, door):
        assert one.script is not None
        assert not one.script.people
        assert one.needs_board, "both are the same program"
