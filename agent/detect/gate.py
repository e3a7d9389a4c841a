# SPDX-License-Identifier: Apache-2.0
"""Who may be embedded: only somebody who acted, and only while the act lasts.

Making an embedding of a face is processing of biometric data even when it matches nobody, so the gate
stands before alignment and embedding, not behind the comparison. The acts are

``ZoneGate``    step into the marked zone, come near, face the camera and stay for a moment;
``ButtonGate``  press a button: for some seconds the nearest face may be embedded, then it shuts.

There is no gate that is always open, and no setting makes one: the window of a button has an upper
bound, and a zone's size, turn and dwell cannot be set to nothing.

A gate counts nobody. Its whole memory is since when each living track has met the conditions, and that
dies with the track. ``refusal`` tells the installer's aiming tool why one face is not admitted right
now; it is worked out when asked and kept nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from agent.detect.pose import head_pose
from agent.detect.track import MAX_MISSED_NS, MAX_TRACKS, Track
from agent.errors import ConfigError

Refusal = Literal["outside_zone", "too_small", "turned", "dwell", "shut", "not_nearest"]
Point = tuple[float, float]

MAX_POLYGON_POINTS = 16  # a door needs four; each point costs a test per face and frame
MIN_ZONE_AREA = 0.0005  # of the frame: a zone of a few pixels admits nobody and is a mistake in the file
MIN_FACE_PX = 32  # pixels; below this an embedding is a guess
MAX_TURN_DEGREES = 60.0  # beyond this a face does not look at the camera, whatever the reason
MIN_DWELL_NS = 200_000_000  # a shorter stay is passing by, not an act
MAX_WINDOW_NS = 60_000_000_000  # a button that opens for longer would be a gate that is always open


class Gate(Protocol):
    """What the pipeline asks for each frame."""

    @property
    def zone(self) -> str:
        """Name of the place, as it stands in events."""
        ...

    def waits(self, timestamp_ns: int) -> bool:
        """Whether an act is under way whose person may not have been seen yet: every frame is looked at then."""
        ...

    def needs(self, timestamp_ns: int, wanted: Callable[[int], bool]) -> bool:
        """Whether somebody who stands as they stood may be admitted now, and is ``wanted``, by the id of the track."""
        ...

    def dwells(self, rests: Callable[[int], bool]) -> bool:
        """Whether in the last look somebody stood as an act wants it whose time at the door counts.

        It does not of whom nothing is to be decided for some time, as ``rests`` says by the id of the track.
        """
        ...

    def admit(self, tracks: Sequence[Track], *, frame_width: int, frame_height: int, timestamp_ns: int) -> list[Track]:
        """Those of the tracks whose faces may be embedded in this frame, in the same order."""
        ...

    def unfit(self, track: Track, tracks: Sequence[Track], *, frame_width: int, frame_height: int) -> Refusal | None:
        """Why ``track``, one of ``tracks``, does not stand as an act wants it, whenever that was; None if it does."""
        ...


class FaceLimits(msgspec.Struct, frozen=True):
    """What a face must be like: smaller side of its box in pixels of the full picture, and degrees off frontal."""

    min_face_px: int = 80
    max_turn_degrees: float = 25.0

    def __post_init__(self) -> None:
        if self.min_face_px < MIN_FACE_PX:
            raise ConfigError(f"min_face_px is {self.min_face_px}: set {MIN_FACE_PX} pixels or more")
        if not 0 < self.max_turn_degrees <= MAX_TURN_DEGREES:
            raise ConfigError(f"max_turn_degrees is {self.max_turn_degrees}: set at most {MAX_TURN_DEGREES:g} degrees")

    def refusal(self, track: Track) -> Refusal | None:
        """Why this face is unfit to be embedded, or None."""
        face = track.face
        if not min(face.width, face.height) >= self.min_face_px:  # also true of a size that is not a number
            return "too_small"
        if head_pose(face.landmarks).turn > self.max_turn_degrees:
            return "turned"
        return None


class ZoneGate:
    """Admits a face whose centre lies in a polygon, that is near and frontal, and has been so for a dwell time.

    ``polygon`` holds corners as fractions of the frame from its top left. A frame in which a tracked face
    is hidden does not end the dwell; a frame in which it breaks a condition does.
    """

    def __init__(
        self, *, zone: str, polygon: Sequence[Point], limits: FaceLimits | None = None, dwell_ns: int = 600_000_000
    ) -> None:
        self._zone = zone
        self._polygon = _checked(polygon)
        self._limits = limits or FaceLimits()
        if dwell_ns < MIN_DWELL_NS:
            raise ConfigError(f"the dwell time of zone {zone} is too short: set {MIN_DWELL_NS // 1_000_000} ms or more")
        self._dwell_ns = dwell_ns
        # Keyed by id and birth: an id that is reused does not inherit its predecessor's time.
        self._since: dict[tuple[int, int], tuple[int, int]] = {}

    @property
    def zone(self) -> str:
        return self._zone

    def waits(self, timestamp_ns: int) -> bool:
        del timestamp_ns  # the act is to be seen: it begins with a change
        return False

    def needs(self, timestamp_ns: int, wanted: Callable[[int], bool]) -> bool:
        return any(
            timestamp_ns - since >= self._dwell_ns and wanted(track_id)
            for (track_id, _), (since, _) in self._since.items()
        )

    def dwells(self, rests: Callable[[int], bool]) -> bool:
        return not all(rests(track_id) for track_id, _ in self._since)

    def admit(self, tracks: Sequence[Track], *, frame_width: int, frame_height: int, timestamp_ns: int) -> list[Track]:
        self._forget(timestamp_ns)
        admitted = []
        for track in tracks[:MAX_TRACKS]:
            key = (track.id, track.first_seen_ns)
            if self.unfit(track, tracks, frame_width=frame_width, frame_height=frame_height) is not None:
                self._since.pop(key, None)
                continue
            since, _ = self._since.get(key, (timestamp_ns, 0))
            self._since[key] = (since, timestamp_ns)
            if timestamp_ns - since >= self._dwell_ns:
                admitted.append(track)
        return admitted

    def refusal(self, track: Track, *, frame_width: int, frame_height: int, timestamp_ns: int) -> Refusal | None:
        """Why ``track`` is not admitted at this moment, or None if it is; for aiming a camera, stored nowhere."""
        unfit = self.unfit(track, (track,), frame_width=frame_width, frame_height=frame_height)
        if unfit is not None:
            return unfit
        since, _ = self._since.get((track.id, track.first_seen_ns), (timestamp_ns, 0))
        return "dwell" if timestamp_ns - since < self._dwell_ns else None

    def unfit(
        self,
        track: Track,
        tracks: Sequence[Track],  # noqa: ARG002 - others in view do not matter to a zone
        *,
        frame_width: int,
        frame_height: int,
    ) -> Refusal | None:
        x0, y0, x1, y1 = track.face.box
        centre = ((x0 + x1) / 2 / frame_width, (y0 + y1) / 2 / frame_height)
        return self._limits.refusal(track) if _inside(centre, self._polygon) else "outside_zone"

    def _forget(self, timestamp_ns: int) -> None:
        """Drop what was not confirmed lately; a clock that went back drops everything."""
        self._since = {
            key: times for key, times in self._since.items() if 0 <= timestamp_ns - times[1] <= MAX_MISSED_NS
        }


class ButtonGate:
    """Admits the nearest face for some seconds after somebody pressed a button.

    Nearest means largest: the act was that person's alone, so bystanders in view stay unembedded. Frames
    from before the press do not count, and pressing again starts the seconds anew rather than adding up.
    """

    def __init__(self, *, zone: str, window_ns: int = 10_000_000_000, limits: FaceLimits | None = None) -> None:
        if not 0 < window_ns <= MAX_WINDOW_NS:
            raise ConfigError(f"the window of button {zone} must be at most {MAX_WINDOW_NS // 1_000_000_000} seconds")
        self._zone = zone
        self._window_ns = window_ns
        self._limits = limits or FaceLimits()
        self._opened_ns: int | None = None
        self._open_ns = window_ns  # of the window that is open

    @property
    def zone(self) -> str:
        return self._zone

    def open_window(self, now_ns: int, window_ns: int | None = None) -> None:
        """Admit the nearest face from now on for the window's length, or another one; the call is the person's act."""
        self._opened_ns = now_ns
        self._open_ns = min(window_ns or self._window_ns, MAX_WINDOW_NS)

    def shut(self) -> None:
        """End the window early, as after a match: the act has had its effect."""
        self._opened_ns = None

    def waits(self, timestamp_ns: int) -> bool:
        opened = self._opened_ns
        return opened is not None and opened <= timestamp_ns < opened + self._open_ns

    def needs(self, timestamp_ns: int, wanted: Callable[[int], bool]) -> bool:
        del wanted
        return self.waits(timestamp_ns)

    def dwells(self, rests: Callable[[int], bool]) -> bool:
        del rests
        return False  # the press is the act: while it counts every frame is looked at

    def admit(self, tracks: Sequence[Track], *, frame_width: int, frame_height: int, timestamp_ns: int) -> list[Track]:
        size = {"frame_width": frame_width, "frame_height": frame_height}
        return [t for t in tracks if self.refusal(t, tracks, **size, timestamp_ns=timestamp_ns) is None]

    def refusal(
        self, track: Track, tracks: Sequence[Track], *, frame_width: int, frame_height: int, timestamp_ns: int
    ) -> Refusal | None:
        """Why ``track``, one of ``tracks``, is not admitted at this moment, or None if it is; stored nowhere."""
        if not self.waits(timestamp_ns):
            return "shut"
        return self.unfit(track, tracks, frame_width=frame_width, frame_height=frame_height)

    def unfit(self, track: Track, tracks: Sequence[Track], *, frame_width: int, frame_height: int) -> Refusal | None:
        x0, y0, x1, y1 = track.face.box
        if not (0 <= (x0 + x1) / 2 <= frame_width and 0 <= (y0 + y1) / 2 <= frame_height):
            return "outside_zone"
        if track is not max(tracks, key=_area):
            return "not_nearest"
        return self._limits.refusal(track)


def _area(track: Track) -> float:
    area = track.face.width * track.face.height
    return area if math.isfinite(area) else 0.0


def _checked(polygon: Sequence[Point]) -> tuple[Point, ...]:
    if not 3 <= len(polygon) <= MAX_POLYGON_POINTS:
        raise ConfigError(f"a zone has 3 to {MAX_POLYGON_POINTS} corners, this one has {len(polygon)}")
    if not all(0 <= value <= 1 for point in polygon for value in point):
        raise ConfigError("a corner of the zone lies outside the picture: give fractions from 0 to 1")
    twice = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in _edges(polygon))
    if abs(twice) / 2 < MIN_ZONE_AREA:
        raise ConfigError("the zone has no area: give its corners in order around its edge")
    return tuple(polygon)


def _edges(polygon: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))


def _inside(point: Point, polygon: Sequence[Point]) -> bool:
    """Even-odd rule: a ray to the right crosses the edge an odd number of times (Shimrat, CACM 1962)."""
    x, y = point
    inside = False
    for (x0, y0), (x1, y1) in _edges(polygon):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside
