# SPDX-License-Identifier: Apache-2.0
"""The zone that somebody drew in the console: kept in the unit's own folder, in place of the one in the file.

The file belongs to root and stays as it is: a service that could write it could say where root's commands look for
keys. So what the console saves is a polygon and nothing else. It counts as long as the file says the polygon that it
was drawn instead of: whoever changes that in the file has the last word. Nor does it leave what the file's ``within``
allows, by whoever it was drawn: at the unit, or from afar.
"""

from __future__ import annotations

from itertools import combinations
from math import hypot
from pathlib import Path
from typing import Literal, get_type_hints

import msgspec

from agent.config.schema import Config, Point, ZoneActivation
from agent.disk.files import read_secret, write_atomic
from agent.errors import KeyStoreError, RefusedError
from agent.parse.strict_json import StrictJsonError, convert, decode

MIN_ZONE_AREA = 0.001  # of the picture: a square of 3 % of its side; no face fits into less
THOUSANDTHS = 1000  # of the picture: what a corner is kept in, a pixel or two
EDGE = 0.001  # of the picture: what rounding to thousandths may put a corner beyond an edge that it lies on
MAX_BYTES = 4096  # 16 corners twice have about 500

Polygon = tuple[Point, ...]
Corners = tuple[tuple[int, int], ...]


class Drawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Corners in thousandths of the picture, in the place of those of the file."""

    v: Literal[1]
    instead_of: Corners
    corners: Corners


def zone_file(config: Config) -> Path:
    """Where the zone is kept: beside the outbox."""
    return config.outbox.path.with_name("zone.json")


def as_drawn(config: Config) -> Config:
    """Return ``config`` with the zone that was drawn, if one was and still counts; twice is as once."""
    zone, drawn = config.activation, _read(config)
    if not isinstance(zone, ZoneActivation) or drawn is None or drawn.instead_of != corners_of(zone.polygon):
        return config
    try:
        return msgspec.structs.replace(config, activation=_with(zone, drawn.corners))
    except RefusedError:
        return config


def draw(config: Config, corners: Corners) -> None:
    """Keep a zone that was drawn at a unit that runs on ``config``; RefusedError says what is wrong with it."""
    zone, before = config.activation, _read(config)
    if not isinstance(zone, ZoneActivation):
        raise RefusedError("this unit has a button and no zone: there is nothing to draw")
    _with(zone, corners)
    present = corners_of(zone.polygon)
    in_file = before.instead_of if before is not None and before.corners == present else present
    write_atomic(zone_file(config), msgspec.json.encode(Drawn(1, in_file, corners)))


def _read(config: Config) -> Drawn | None:
    """What was drawn; None when nothing was, or when it is not for this user to see."""
    try:
        return decode(read_secret(zone_file(config)), Drawn, MAX_BYTES)
    except (KeyStoreError, StrictJsonError, OSError):
        return None


def _with(zone: ZoneActivation, corners: Corners) -> ZoneActivation:
    polygon = tuple((x / THOUSANDTHS, y / THOUSANDTHS) for x, y in corners)
    try:
        convert(polygon, get_type_hints(ZoneActivation, include_extras=True)["polygon"])
    except msgspec.ValidationError:
        raise RefusedError("a zone has 3 to 16 corners within the picture: draw it anew") from None
    if (reason := refuse_zone(polygon, zone.within)) is not None:
        raise RefusedError(reason)
    return msgspec.structs.replace(zone, polygon=polygon)


def corners_of(polygon: Polygon) -> Corners:
    """Corners of a polygon in thousandths."""
    return tuple((round(x * THOUSANDTHS), round(y * THOUSANDTHS)) for x, y in polygon)


def refuse_zone(corners: Polygon, within: Polygon | None = None) -> str | None:
    """Why no zone has these corners, in a picture in which zones lie ``within``; None if one may."""
    sides = list(zip(corners, (*corners[1:], corners[0]), strict=True))
    if any(_cross(*one, *other) for one, other in combinations(sides, 2)):
        return "the sides of the zone cross each other; list the corners in order around it"
    area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in sides)) / 2
    if area < MIN_ZONE_AREA:
        return "the zone is too small for a face to be in it; corners are fractions of the picture, 0 to 1"
    if within is not None and not all(_inside(corner, within) for corner in corners):
        return "the zone leaves activation.within of the unit's own file, where zones may lie: draw it inside of that"
    return None


def refuse_bounds(corners: Polygon) -> str | None:
    """Why zones cannot be bound by these corners; None if they can. Inside of a convex one no side leaves it."""
    if (reason := refuse_zone(corners)) is not None:
        return reason
    if not all(_inside(corner, corners) for corner in corners):
        return "has a corner that points inwards: give corners around it that all point outwards"
    return None


def _inside(point: Point, convex: Polygon) -> bool:
    """Whether ``point`` is in a convex polygon or on its edge."""
    (x, y), distances = point, []
    for (x0, y0), (x1, y1) in zip(convex, (*convex[1:], convex[0]), strict=True):
        if (length := hypot(x1 - x0, y1 - y0)) > 0:
            distances.append(((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / length)
    return all(one >= -EDGE for one in distances) or all(one <= EDGE for one in distances)


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments ab and cd cross in one inner point (touching corners do not count)."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
