# SPDX-License-Identifier: Apache-2.0
"""What a site may set at its units from afar, and what of it counts beside the file at the unit.

Everything else stands in the unit's own file alone, which root writes: who the unit is and why (profile, purpose, unit,
notice), where its keys, stores, models and policy lie, which camera and broker it believes, who lets in and how
(buttons, rules, outputs, enrolment, feedback, console), how long people are kept. Whoever could set these from afar
could put a film before a door, read what is kept, have people erased, or have the unit listen to another broker.

Of what may be set, some protects people: the stricter one of both counts, the file's or the site's. A picture is among
it: in a larger one people who are further away have as many pixels as a face needs. So whoever has the site's service
may draw a zone elsewhere, within ``activation.within`` of the file, and slow a camera down, and never have it see
anybody whom its file leaves too far away, turned too much or gone too soon. Where the file has such bounds, the picture
that they are drawn in is the file's, too: turned, or of another size, it would show other people within them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

import msgspec
import rfc8785
from msgspec import Meta

from agent.config import camera
from agent.config.between import problems_of
from agent.config.check import Problem
from agent.config.drawn import refuse_zone
from agent.config.schema import (
    Config,
    Corners,
    Discovery,
    Dwell,
    HealthInterval,
    Look,
    MaxTurn,
    MinFace,
    Presence,
    PresenceHold,
    Threads,
    TimeResolution,
    View,
    Window,
    ZoneActivation,
)
from agent.parse.strict_yaml import Place


class _Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Part of a section; what is not given stays as the file at the unit says."""


class CameraChange(_Change, frozen=True):
    """How the camera that the unit's file names is driven."""

    width: camera.Width | None = None
    height: camera.Height | None = None
    frames_per_second: camera.FrameRate | None = None
    rotate: camera.Rotate | None = None
    timeout_s: camera.Seconds | None = None


class ActivationChange(_Change, frozen=True):
    """Where people act, and from when on they did."""

    polygon: Corners | None = None
    min_face_px: MinFace | None = None
    max_turn_degrees: MaxTurn | None = None
    dwell_ms: Dwell | None = None
    window_s: Window | None = None


class DetectionChange(_Change, frozen=True):
    """What the detector is shown."""

    view: View | None = None
    look: Look | None = None


class ModelsChange(_Change, frozen=True):
    """How the models run; which ones the unit's file says."""

    threads: Threads | None = None


class EventsChange(_Change, frozen=True):
    """What an event says; never more, and never more precisely, than the unit's file has it."""

    presence: Presence | None = None
    time_resolution_s: TimeResolution | None = None
    presence_hold_s: PresenceHold | None = None


class BrokerChange(_Change, frozen=True):
    """What is told at the broker that the unit's file names."""

    home_assistant: Discovery | None = None
    health_interval_s: HealthInterval | None = None


class Settings(_Change, frozen=True):
    """All that may be set from afar."""

    liveness: Annotated[
        Literal["require"] | None, Meta(description="require; from afar it can be asked for, and never be dropped")
    ] = None
    camera: CameraChange = msgspec.field(default_factory=CameraChange)
    activation: ActivationChange = msgspec.field(default_factory=ActivationChange)
    detection: DetectionChange = msgspec.field(default_factory=DetectionChange)
    models: ModelsChange = msgspec.field(default_factory=ModelsChange)
    events: EventsChange = msgspec.field(default_factory=EventsChange)
    broker: BrokerChange = msgspec.field(default_factory=BrokerChange)


_Stricter = Callable[[Any, Any], Any]
_STRICTER: Final[dict[Place, _Stricter]] = {
    ("camera", "width"): min,
    ("camera", "height"): min,
    ("activation", "min_face_px"): max,
    ("activation", "max_turn_degrees"): min,
    ("activation", "dwell_ms"): max,
    ("activation", "window_s"): min,
    ("events", "presence"): min,
    ("events", "time_resolution_s"): max,
    ("events", "presence_hold_s"): max,
}
# What a picture shows: a camera cuts another part out of what it sees for another size, whatever its shape.
_TAKEN: Final[tuple[Place, ...]] = (("camera", "rotate"), ("camera", "width"), ("camera", "height"))
_ZONE: Final[Place] = ("activation", "polygon")
TAKEN = "the unit's own file binds the zone (activation.within) in the picture as it is taken there: set this there"
LOCAL = "this stands in the unit's own file alone, never in the site's: change it there"


def overlaid(config: Config, settings: Settings) -> Config:
    """Return ``config``, the unit's own file, with what the site set; what the unit has no such setting for is left.

    So is what would leave the file's bounds of a zone: they may have been drawn since, and the rest still counts.
    """
    changed: dict[str, Any] = {}
    for place, given in _given(settings):
        if len(place) == 1:
            changed[place[0]] = given
            continue
        name, key = place
        section = changed.get(name, getattr(config, name))
        if hasattr(section, key) and _leaves_bounds(config, place, given) is None:
            present = getattr(section, key)
            value = _STRICTER[place](present, given) if place in _STRICTER else given
            changed[name] = msgspec.structs.replace(section, **{key: value})
    return msgspec.structs.replace(config, **changed)


def problems_with(config: Config, settings: Settings) -> list[Problem]:
    """Why a unit whose own file is ``config`` does not take ``settings``; empty when it does."""
    found: list[Problem] = []
    for place, given in _given(settings):
        section = config if len(place) == 1 else getattr(config, place[0])
        if not hasattr(section, place[-1]):
            found.append((place, "this unit has no such setting, by the kind that its own file names: leave it out"))
        elif place in _STRICTER and _STRICTER[place](getattr(section, place[-1]), given) != given:
            present = msgspec.json.encode(getattr(section, place[-1])).decode()
            found.append(
                (
                    place,
                    f"the unit's own file says {present}, and from afar it can only become stricter: change it there",
                )
            )
        elif (reason := _leaves_bounds(config, place, given)) is not None:
            found.append((place, reason))
    return found or problems_of(overlaid(config, settings))


def _leaves_bounds(config: Config, place: Place, given: Any) -> str | None:  # noqa: ANN401 - of any setting
    """Why a value would have a zone leave what the unit's own file binds it by; None where it would not."""
    zone = config.activation
    if not isinstance(zone, ZoneActivation) or zone.within is None:
        return None
    if place in _TAKEN and given != getattr(config.camera, str(place[-1]), given):
        return TAKEN
    return refuse_zone(given, zone.within) if place == _ZONE else None


def digest_of_settings(settings: Settings) -> str:
    """``sha256:…`` over the canonical JSON (RFC 8785): what is set, whatever the serial."""
    return "sha256:" + hashlib.sha256(rfc8785.dumps(msgspec.to_builtins(settings))).hexdigest()


def is_local(place: Place) -> bool:
    """Whether ``place`` is one of the unit's own file, which a site may not set."""
    hint: object = Config
    for part in place:
        fields = [hints[str(part)] for kind in _kinds(hint) if str(part) in (hints := _hints(kind))]
        if not fields:
            return False
        hint = fields[0]
    return True


def _given(settings: Settings) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value that is set, with its place, in the order of the schema."""
    for name in Settings.__struct_fields__:
        section = getattr(settings, name)
        if not isinstance(section, msgspec.Struct):
            if section is not None:
                yield (name,), section
            continue
        for key in section.__struct_fields__:
            if (given := getattr(section, key)) is not None:
                yield (name, key), given


def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    tag = kind.__struct_config__.tag_field
    return {**get_type_hints(kind), **({tag: str} if tag else {})}


def _kinds(hint: object) -> list[type[msgspec.Struct]]:
    found = [hint, *get_args(hint)]
    return [one for one in found if isinstance(one, type) and issubclass(one, msgspec.Struct)]
