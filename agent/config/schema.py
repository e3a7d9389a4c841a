# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration file: names, types, limits, defaults and what each value means.

The descriptions are what ``postern check-config`` prints beside a wrong value and what the JSON Schema carries.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config import door
from agent.config.camera import CameraSettings
from agent.config.console import Console
from agent.protocol import names

MAX_RETENTION_DAYS = 1095  # 740 ILCS 14/15(a): three years after the last interaction at the latest
MAX_POLYGON_POINTS = 16  # a door needs four; each point costs a test per face and frame

Name = Annotated[names.Name, Meta(description=f"1 to {names.MAX_NAME} of the letters a-z, the digits 0-9 and '-'")]
Line = Annotated[str, Meta(min_length=5, max_length=300)]
Point = tuple[Annotated[float, Meta(ge=0, le=1)], Annotated[float, Meta(ge=0, le=1)]]


def _default(path: str) -> Path:
    """Give a field the default ``path``; msgspec's JSON Schema cannot hold a Path as a plain default."""
    default: Path = msgspec.field(default_factory=lambda: Path(path))
    return default


class Unit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which unit this is."""

    site: Name
    id: Name
    name: Annotated[
        str, Meta(min_length=1, max_length=64, description="what people call this unit, up to 64 characters")
    ]


class Notice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The notice that people read before they enrol."""

    version: Annotated[
        str, Meta(min_length=1, max_length=32, description="version of the notice that hangs at this unit, as text")
    ]
    operator: Annotated[
        Line | None, Meta(description="who answers for this unit and how to reach them, 5 to 300 characters")
    ] = None
    alternative: Annotated[Line | None, Meta(description="the way in that needs no face, 5 to 300 characters")] = None


class Models(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models run, by their names in the manifest."""

    manifest: Annotated[Path, Meta(description="the models' manifest; its files lie beside it")] = _default(
        "/usr/share/postern/models/manifest.yaml"
    )
    detector: Annotated[str, Meta(min_length=1, max_length=64, description="a detector's name in the manifest")] = (
        "detector-320x240"
    )
    embedder: Annotated[str, Meta(min_length=1, max_length=64, description="an embedder's name in the manifest")] = (
        "embedder"
    )
    pad: Annotated[
        str,
        Meta(
            min_length=1, max_length=64, description="a liveness network's name in the manifest, for its passive part"
        ),
    ] = "liveness"
    threads: Threads = 1


MinFace = Annotated[
    int, Meta(ge=32, le=2000, description="smallest side of a face in pixels of the full picture, 32 to 2000")
]
MaxTurn = Annotated[
    float, Meta(ge=5, le=60, description="how far a face may be turned away from the camera, 5 to 60 degrees")
]
Corners = Annotated[
    tuple[Point, ...],
    Meta(
        min_length=3,
        max_length=MAX_POLYGON_POINTS,
        description="3 to 16 corners [x, y] of the zone, as fractions 0 to 1 of the picture from its top left",
    ),
]
Dwell = Annotated[
    int, Meta(ge=200, le=10_000, description="how long a person must stay and face the camera, 200 to 10000 ms")
]
Window = Annotated[int, Meta(ge=1, le=60, description="how long the window stays open, 1 to 60 seconds")]
Threads = Annotated[
    int, Meta(ge=1, le=16, description="threads per model, 1 to 16; measure, more is often slower on small boards")
]
View = Annotated[
    Literal["picture", "zone"],
    Meta(description="the whole picture, or the zone with a margin, in which faces have more pixels"),
]
Look = Annotated[
    Literal["changes", "every_frame"],
    Meta(description="at frames in which something changed or somebody is there, or at every frame"),
]
Presence = Annotated[bool, Meta(description="also publish 'arrived' and 'left', true or false")]
TimeResolution = Annotated[
    int, Meta(ge=1, le=3600, description="event times are rounded down to this many seconds, 1 to 3600")
]
PresenceHold = Annotated[
    int, Meta(ge=5, le=86_400, description="a person not seen for this long has 'left', 5 to 86400 seconds")
]
Discovery = Annotated[bool, Meta(description="publish Home Assistant discovery, true or false")]
HealthInterval = Annotated[int, Meta(ge=10, le=3600, description="seconds between health messages, 10 to 3600")]


class ZoneActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="zone"):
    """A person acts by stepping into the marked zone and facing the camera for a moment."""

    name: Name
    polygon: Corners
    within: Annotated[
        Corners | None, Meta(description="where a zone may lie at all, whoever draws it; null: in the whole picture")
    ] = None
    min_face_px: MinFace = 80
    max_turn_degrees: MaxTurn = 25.0
    dwell_ms: Dwell = 600


class ButtonActivation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="button"):
    """A person acts by pressing a button, which opens a short window for the nearest face."""

    name: Name
    inputs: door.Inputs = (door.CommandInput(),)
    window_s: Window = 10
    min_face_px: MinFace = 80
    max_turn_degrees: MaxTurn = 25.0


class Detection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the detector is shown, and how often it looks."""

    view: View = "picture"
    look: Look = "changes"


class Matching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sure a match must be: the signed policy says, not this file."""

    policy: Annotated[Path, Meta(description="the matching policy, signed by the site")] = _default(
        "/var/lib/postern/policy.jws"
    )


class Gallery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where references are kept, and for how long."""

    path: Annotated[Path, Meta(description="the gallery's database")] = _default("/var/lib/postern/gallery.db")
    retention_days: Annotated[
        int,
        Meta(
            ge=1,
            le=MAX_RETENTION_DAYS,
            description="a reference not used for this many days is erased, 1 to 1095 (three years, 740 ILCS 14/15(a))",
        ),
    ] = 365


class Audit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The hash chain of what was done to people's data."""

    path: Annotated[Path, Meta(description="the audit log")] = _default("/var/lib/postern/audit.log")


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an event says, and how precisely."""

    presence: Presence = False
    audience: Annotated[Name, Meta(description="who the events are for; each audience has its own pseudonyms")] = (
        "access"
    )
    subject: Annotated[
        Literal["pseudonym", "sealed"],
        Meta(
            description="a pseudonym per epoch, or sealed to the consumer's key, so that a broker sees nothing stable"
        ),
    ] = "pseudonym"
    consumer_key: Annotated[Path | None, Meta(description="the consumer's public JWK, for 'sealed' only")] = None
    time_resolution_s: TimeResolution = 1
    presence_hold_s: PresenceHold = 60


class Outbox(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The durable queue between matching and the broker."""

    path: Annotated[Path, Meta(description="the queue's database")] = _default("/var/lib/postern/outbox.db")
    max_rows: Annotated[
        int, Meta(ge=100, le=1_000_000, description="events kept while the broker is away, 100 to 1000000")
    ] = 50_000
    keep_days: Annotated[
        int,
        Meta(ge=0, le=30, description="days that delivered events are kept for auditors that missed them, 0 to 30"),
    ] = 7
    live_window_s: Annotated[
        int, Meta(ge=5, le=3600, description="older events go to the backlog topics, 5 to 3600 seconds")
    ] = 15


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files of the mutual TLS session; what is not given is taken from the key folder."""

    ca: Annotated[Path | None, Meta(description="certificate of the site's authority (ca.crt)")] = None
    certificate: Annotated[Path | None, Meta(description="this unit's certificate (tls.crt)")] = None
    key: Annotated[Path | None, Meta(description="this unit's TLS key (tls.key)")] = None


class Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The MQTT broker; there is no session without mutual TLS."""

    host: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9.:_-]{1,253}$(?!\n)",
            description="host name or address as in the broker's certificate, no scheme and no port",
        ),
    ]
    port: Annotated[int, Meta(ge=1, le=65_535, description="TCP port, 1 to 65535; 8883 is usual")] = 8883
    protocol: Annotated[
        Literal["5", "3.1.1"], Meta(description="MQTT version; 3.1.1 cannot say when a publish is refused")
    ] = "5"
    tls: Tls = msgspec.field(default_factory=Tls)
    home_assistant: Discovery = False
    health_interval_s: HealthInterval = 60


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the unit's own keys lie."""

    folder: Annotated[Path, Meta(description="folder of the unit's keys, readable by the service alone")] = _default(
        "/var/lib/postern/keys"
    )


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    profile: Annotated[
        Literal["production", "demo"],
        Meta(description="production, or demo, which alone allows recorded and simulated cameras"),
    ]
    purpose: Annotated[
        str,
        Meta(
            min_length=20,
            max_length=500,
            description="one sentence, 20 to 500 characters: what this unit is for and why a face is needed for it",
        ),
    ]
    unit: Unit
    notice: Notice
    camera: CameraSettings
    activation: ZoneActivation | ButtonActivation
    broker: Broker
    liveness: Annotated[
        Literal["not_checked", "require"],
        Meta(description="not_checked, or require: nobody is announced before turning their head as the door asks"),
    ] = "not_checked"
    liveness_parts: Annotated[
        tuple[Literal["challenge", "passive", "depth"], ...],
        Meta(
            min_length=1,
            max_length=3,
            description="what 'require' requires: challenge, and with it passive (a network looks as well: it refuses "
            "some more attacks and people) or depth (a camera that measures it: simulated scenes alone)",
        ),
    ] = ("challenge",)
    enrolment: door.Enrolment = msgspec.field(default_factory=door.Enrolment)
    feedback: door.Feedback = msgspec.field(default_factory=door.Feedback)
    outputs: door.Outputs = ()
    rules: door.Rules = ()
    models: Models = msgspec.field(default_factory=Models)
    detection: Detection = msgspec.field(default_factory=Detection)
    match: Matching = msgspec.field(default_factory=Matching)
    gallery: Gallery = msgspec.field(default_factory=Gallery)
    audit: Audit = msgspec.field(default_factory=Audit)
    events: Events = msgspec.field(default_factory=Events)
    outbox: Outbox = msgspec.field(default_factory=Outbox)
    keys: Keys = msgspec.field(default_factory=Keys)
    console: Annotated[
        Console | None, Meta(description="the web console for whoever installs the unit; none without this section")
    ] = None
