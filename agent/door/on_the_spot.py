# SPDX-License-Identifier: Apache-2.0
"""The act by which somebody who enrols shows that they are here and mean it: nobody is enrolled for walking past.

A command that begins an enrolment comes from anywhere. Before the first capture the person before the camera has to
act: press the unit's button, or, where there is none, make movements of the head that the unit has chosen at random
and that the operator says, or a display shows. Both bind one track: somebody who stands in the zone, looks into the
camera for a while, alone. Only this track is captured; when it is lost, the act has to be repeated.

The movements are an act, not a proof of a living face: they keep passers-by out, not an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, Protocol

import msgspec

from agent.detect.pose import Pose, head_pose
from agent.detect.track import MAX_MISSED_NS, Track

Asked = Literal["press", "front", "left", "right", "up", "down"]
Move = Literal["left", "right", "up", "down"]

MOVES: tuple[Move, ...] = ("left", "right", "up", "down")
STEPS = 3  # random movements: one in 32 orders, no two alike in a row, not all to the sides or all up and down
DWELL_NS = 600_000_000  # in the zone and facing the camera, before anything counts: as the zone's own default
PRESS_NS = 10_000_000_000  # a press counts for so long: whoever pressed it steps before the camera by then
STEP_NS = 10_000_000_000  # for one movement; then it begins anew
SMOOTHED = 3  # frames whose mean is a pose: landmarks tremble by one to two degrees
# How far the pose must move from where the person looked ahead. The unit reads turns too small (about half of them),
# so this is a head that is turned by some twenty degrees.
MOVED_YAW, MOVED_PITCH = 10.0, 8.0
BACK = 5.0  # degrees from ahead within which a head looks ahead again

Fit = Callable[[Track], bool]
Key = tuple[int, int]  # of a track: its id and its birth; an id is used again


def key_of(track: Track) -> Key:
    """What tells a track from a later one with its id."""
    return (track.id, track.first_seen_ns)


class OnTheSpot(Protocol):
    """An act, asked once a frame until it is done; a new one for each enrolment."""

    def press(self, now_ns: int) -> None:
        """Take a press of the unit's own button at this moment."""
        ...

    def look(self, tracks: Sequence[Track], fit: Fit, now_ns: int) -> Key | Asked:
        """Who has acted and is still here, or what to ask for. ``fit``: in the zone, near, facing the camera."""
        ...


class _Standing(msgspec.Struct):
    """Who stands alone before the camera, since when, and how they look."""

    key: Key
    since_ns: int
    seen_ns: int


class _Act:
    """What both acts share: one track that stands as it should, and the one that is bound once it has acted."""

    def __init__(self) -> None:
        self._standing: _Standing | None = None
        self._bound: _Standing | None = None

    def _still_bound(self, tracks: Sequence[Track], now_ns: int) -> Key | None:
        bound = self._bound
        if bound is None:
            return None
        if any(key_of(track) == bound.key for track in tracks):
            bound.seen_ns = now_ns
        if not 0 <= now_ns - bound.seen_ns <= MAX_MISSED_NS:
            self._bound = None
            return None
        return bound.key

    def _follow(self, tracks: Sequence[Track], fit: Fit, now_ns: int, *, moving: bool) -> Track | None:
        """The one track that stands there; None when it is nobody, or somebody who is not alone.

        A head that is ``moving`` need not face the camera meanwhile.
        """
        track = tracks[0] if len(tracks) == 1 else None
        held = self._standing
        if track is None or held is None or key_of(track) != held.key:
            hidden = track is None and not tracks and held is not None and now_ns - held.seen_ns <= MAX_MISSED_NS
            if not hidden:
                self._standing = None
            if track is None or not fit(track):
                return None
            self._standing = _Standing(key_of(track), now_ns, now_ns)
            return track
        held.seen_ns = now_ns
        if not moving and not fit(track):
            self._standing = None
            return None
        return track

    def _dwelt(self, now_ns: int) -> bool:
        return self._standing is not None and now_ns - self._standing.since_ns >= DWELL_NS

    def _bind(self, now_ns: int) -> Key | None:
        held, self._standing = self._standing, None
        if held is None:
            return None
        self._bound = _Standing(held.key, now_ns, now_ns)
        return held.key


class ButtonAct(_Act):
    """Press the button, and stand before the camera alone."""

    def __init__(self) -> None:
        super().__init__()
        self._pressed_ns: int | None = None

    def press(self, now_ns: int) -> None:
        self._pressed_ns = now_ns

    def look(self, tracks: Sequence[Track], fit: Fit, now_ns: int) -> Key | Asked:
        if (bound := self._still_bound(tracks, now_ns)) is not None:
            return bound
        self._follow(tracks, fit, now_ns, moving=False)
        if self._pressed_ns is None or now_ns - self._pressed_ns > PRESS_NS:
            self._pressed_ns = None
            return "press"
        # A camera shows what was a moment ago: frames from before the press may still come, and bind nobody.
        if now_ns >= self._pressed_ns and self._dwelt(now_ns) and (key := self._bind(now_ns)) is not None:
            self._pressed_ns = None
            return key
        return "front"


class MovesAct(_Act):
    """Turn the head as the unit asks, ``STEPS`` times; what comes is not known before."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        super().__init__()
        self._random = random
        self._steps = self._choose()
        self._done = 0
        self._poses: list[Pose] = []
        self._ahead: Pose | None = None  # how the person looks ahead
        self._away = False  # a movement was made and the head is not back yet
        self._asked_ns = 0

    def press(self, now_ns: int) -> None:
        """Nothing: there is no button that counts here."""

    def look(self, tracks: Sequence[Track], fit: Fit, now_ns: int) -> Key | Asked:
        if (bound := self._still_bound(tracks, now_ns)) is not None:
            return bound
        track = self._follow(tracks, fit, now_ns, moving=self._ahead is not None)
        if self._standing is None:
            self._begin_anew()
        if track is None:
            return "front" if self._ahead is None or self._away else self._steps[self._done]
        self._poses = [*self._poses, head_pose(track.face.landmarks)][-SMOOTHED:]
        if self._ahead is None:
            if self._dwelt(now_ns) and len(self._poses) == SMOOTHED:
                self._ahead, self._asked_ns = _mean(self._poses), now_ns
            return "front"
        return self._judge(now_ns)

    def _judge(self, now_ns: int) -> Key | Asked:
        if self._ahead is None or now_ns - self._asked_ns > STEP_NS:
            self._begin_anew()
            return "front"
        pose = _mean(self._poses)
        yaw, pitch = pose.yaw - self._ahead.yaw, pose.pitch - self._ahead.pitch
        if self._away:
            if max(abs(yaw), abs(pitch)) > BACK:
                return "front"
            self._away, self._asked_ns = False, now_ns
            if self._done == len(self._steps):
                return self._bind(now_ns) or "front"
        move = _move(yaw, pitch)
        if move is None:
            return self._steps[self._done]
        if move != self._steps[self._done]:  # guessed, or somebody who looks about
            self._begin_anew()
            return "front"
        self._done, self._away, self._asked_ns = self._done + 1, True, now_ns
        return "front"

    def _begin_anew(self) -> None:
        if self._ahead is not None:
            self._steps = self._choose()
        self._standing, self._ahead, self._away, self._done = None, None, False, 0
        self._poses = []

    def _choose(self) -> tuple[Move, ...]:
        while True:
            steps = tuple(MOVES[byte % len(MOVES)] for byte in self._random(STEPS))
            both_ways = (
                0 < sum(one in ("left", "right") for one in steps) < STEPS
            )  # who looks about does it to the sides
            if both_ways and all(one != other for one, other in pairwise(steps)):
                return steps


def _mean(poses: Sequence[Pose]) -> Pose:
    count = len(poses)
    return Pose(
        sum(one.yaw for one in poses) / count,
        sum(one.pitch for one in poses) / count,
        sum(one.roll for one in poses) / count,
    )


def _move(yaw: float, pitch: float) -> Move | None:
    """Which way a head is turned from ahead, in degrees; None while it is not, or not clearly.

    Somebody's left is the picture's right.
    """
    if abs(yaw) / MOVED_YAW >= abs(pitch) / MOVED_PITCH:
        return None if abs(yaw) < MOVED_YAW else "left" if yaw > 0 else "right"
    return None if abs(pitch) < MOVED_PITCH else "down" if pitch > 0 else "up"
