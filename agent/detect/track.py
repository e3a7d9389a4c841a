# SPDX-License-Identifier: Apache-2.0
"""Which face of this frame is which face of the frames just before, and nothing beyond that.

A track remembers a place and a size for a fraction of a second, so that crops can be gathered and dwell time
counted. It holds no appearance. Its id is the smallest number that is free at that moment: it is
reused as soon as the track has died, so there is no running number from which anybody could read how
many people went past.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec

from agent.detect.face import Face

MAX_TRACKS = 16  # faces followed at once; a door shows few, and each costs a comparison with each face per frame
MAX_MISSED_FRAMES = 5  # frames that a face may be hidden (a blink of the detector, a passing hand)
MAX_MISSED_NS = 1_000_000_000  # the same for slow cameras: after a second another person may stand there

# Overlap above which two boxes are the same face: SORT (Bewley et al., ICIP 2016) uses 0.3.
MIN_IOU = 0.3
# Without overlap (slow camera, quick step): how far a centre may move in one step, in box sizes...
MAX_SHIFT = 0.6
# ...and how much the size may change; people do not double in a frame.
MAX_GROWTH = 1.6
# Who moved by less since the last look, in box sizes, stands: between two looks that a frame lies between, too, the
# boxes overlap by far more than they have to.
STILL_SHIFT, STILL_GROWTH = 0.15, 1.1
# Who moved by less in a frame walks: two boxes of one size so far apart still share half of their union, and a frame
# between two looks may double the step.
WALK_SHIFT, WALK_GROWTH = 0.3, 1.2

Box = tuple[float, float, float, float]


class Track(msgspec.Struct, frozen=True):
    """A face seen in this frame and since when it was followed; times are sensor times in nanoseconds.

    ``id`` is local to this process and dies with the track; it never leaves the unit.
    """

    id: int
    face: Face
    first_seen_ns: int
    last_seen_ns: int


class _Alive(msgspec.Struct):
    track: Track
    missed: int
    moved: tuple[float, float]  # shift and growth since the look before
    frames: int  # since that look


class Tracker:
    """Follows at most ``MAX_TRACKS`` faces from frame to frame by overlap, then by nearness."""

    def __init__(self, *, max_tracks: int = MAX_TRACKS) -> None:
        self._max_tracks = max_tracks
        self._alive: dict[int, _Alive] = {}
        self._gone: frozenset[int] = frozenset()
        self._last_ns = 0

    @property
    def following(self) -> bool:
        """Whether a track lives, seen in the last frame or hidden for some."""
        return bool(self._alive)

    @property
    def tracks(self) -> list[Track]:
        """Every track that lives, each as it was last seen."""
        return [alive.track for alive in self._alive.values()]

    @property
    def still(self) -> bool:
        """Whether every track was seen in the last look, and hardly moved since the one before."""
        return all(
            not alive.missed and alive.moved[0] <= STILL_SHIFT and alive.moved[1] <= STILL_GROWTH
            for alive in self._alive.values()
        )

    @property
    def walking(self) -> bool:
        """Whether no track is new, and each that was seen in the last look moved as slowly as half the rate follows."""
        return all(
            alive.moved[0] <= WALK_SHIFT * alive.frames and alive.moved[1] <= WALK_GROWTH**alive.frames
            for alive in self._alive.values()
        )

    @property
    def gone(self) -> frozenset[int]:
        """Ids of tracks that died in the last update; their probes must be forgotten before crops are added."""
        return self._gone

    def update(self, faces: Sequence[Face], timestamp_ns: int) -> list[Track]:
        """Tracks of the faces in this frame, in the order of ``faces`` (best first).

        Faces beyond the limit are left out. Time that goes back is a new camera session: nothing is carried over.
        """
        before = frozenset(self._alive)
        if timestamp_ns < self._last_ns:
            self._alive.clear()
        self._last_ns = timestamp_ns
        self._drop_stale(timestamp_ns)
        places = [face for face in faces if _is_place(face.box)]
        assigned = self._assign(places)
        seen: set[int] = set()
        tracks: list[Track] = []
        for index, face in enumerate(places):
            track_id = assigned.get(index)
            if track_id is None:
                if len(self._alive) >= self._max_tracks:
                    continue
                # Not an id of ``before``: whoever keeps probes by id can tell the dead from the new.
                track_id = next(i for i in itertools.count() if i not in self._alive and i not in before)
                first_seen_ns, moved, frames = timestamp_ns, (math.inf, math.inf), 1
            else:
                last = self._alive[track_id]
                first_seen_ns, moved = last.track.first_seen_ns, _moved(last.track.face.box, face.box)
                frames = last.missed + 1
            track = Track(track_id, face, first_seen_ns, timestamp_ns)
            self._alive[track_id] = _Alive(track, 0, moved, frames)
            seen.add(track_id)
            tracks.append(track)
        for track_id, alive in self._alive.items():
            if track_id not in seen:
                alive.missed += 1
        self._gone = before - frozenset(self._alive)
        return tracks

    def unseen(self) -> None:
        """A frame passed in which nobody was looked for: whoever is hidden in the next one was hidden in this, too."""
        for alive in self._alive.values():
            alive.missed += 1

    def _drop_stale(self, timestamp_ns: int) -> None:
        for track_id, alive in list(self._alive.items()):
            if alive.missed > MAX_MISSED_FRAMES or timestamp_ns - alive.track.last_seen_ns > MAX_MISSED_NS:
                del self._alive[track_id]

    def _assign(self, faces: Sequence[Face]) -> dict[int, int]:
        """Face index to track id: the most alike pairs first, each face and each track once."""
        pairs = [
            (likeness, index, track_id)
            for index, face in enumerate(faces)
            for track_id, alive in self._alive.items()
            if (likeness := _likeness(face.box, alive.track.face.box)) is not None
        ]
        assigned: dict[int, int] = {}
        taken: set[int] = set()
        for _, index, track_id in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
            if index not in assigned and track_id not in taken:
                assigned[index] = track_id
                taken.add(track_id)
        return assigned


def _is_place(box: Box) -> bool:
    return all(map(math.isfinite, box)) and box[2] > box[0] and box[3] > box[1]


def _likeness(a: Box, b: Box) -> float | None:
    """Above 0: overlap of the boxes. 0 and below: minus the distance of the centres. None: not the same face."""
    overlap = _iou(a, b)
    if overlap >= MIN_IOU:
        return overlap
    shift, growth = _moved(a, b)
    return -shift if growth <= MAX_GROWTH and shift <= MAX_SHIFT else None


def _moved(a: Box, b: Box) -> tuple[float, float]:
    """How far the centres are apart, in sizes of the larger box, and how many times as large as the other it is."""
    smaller, larger = sorted((math.sqrt(_area(a)), math.sqrt(_area(b))))
    return math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2 / larger, larger / smaller


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(a) + _area(b) - shared)
