# SPDX-License-Identifier: Apache-2.0
"""The script of a scene: what a simulated camera sees, and when. Strict YAML; nothing here draws.

Places are pixels of the main picture, times are seconds from the scene's start, angles are degrees. Between two
keys a value eases in and out, before the first and after the last it stands still: a person who walks and stops
needs two keys. ``face`` is the height of the face as a detector's box has it.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from agent.camera.scene.people import PERSON_IDS
from agent.camera.scene.pose import MAX_PITCH, MAX_YAW
from agent.errors import ConfigError
from agent.parse.strict_json import convert
from agent.parse.strict_yaml import Document, Place, dotted, parse_document

MAX_SCRIPT_BYTES: Final = 64 * 1024  # the YAML reader's own bound
MAX_PEOPLE: Final = 16  # in one scene: each costs up to a few milliseconds a frame
MAX_KEYS: Final = 64  # per movement: one a second for a minute
MAX_DURATION: Final = 600.0  # s: ten minutes; longer runs repeat a scene
MAX_SIDE: Final = 3840  # pixels: UHD
MIN_SIDE: Final = 16  # pixels: tests draw thumbnails

Seconds = Annotated[float, Meta(ge=0, le=MAX_DURATION, description="seconds from the scene's start")]
Side = Annotated[int, Meta(ge=MIN_SIDE, le=MAX_SIDE)]
Pixel = Annotated[float, Meta(ge=-MAX_SIDE, le=2 * MAX_SIDE, description="pixels of the main picture")]
Share = Annotated[float, Meta(ge=0, le=1, description="0 to 1")]
Gain = Annotated[float, Meta(ge=0.02, le=3, description="factor on all light, 1 is daylight indoors")]
Colour = Annotated[str, Meta(pattern="^#[0-9a-f]{6}$", description="colour as '#rrggbb', quoted")]


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    at: Seconds


class PathKey(_Key, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the middle of the face is, and how high the face is."""

    x: Pixel
    y: Pixel
    face: Annotated[float, Meta(ge=4, le=1000, description="height of the face in pixels, 4 to 1000")]


class PoseKey(_Key, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the head is held: yaw to the image's right, pitch down, roll clockwise, as seen in the image."""

    yaw: Annotated[float, Meta(ge=-MAX_YAW, le=MAX_YAW, description="degrees")] = 0.0
    pitch: Annotated[float, Meta(ge=-MAX_PITCH, le=MAX_PITCH, description="degrees")] = 0.0
    roll: Annotated[float, Meta(ge=-90, le=90, description="degrees")] = 0.0


class GainKey(_Key, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Light on the whole scene."""

    gain: Gain


class LightKey(_Key, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Light on one person, on top of the scene's; ``side`` is where more of it comes from."""

    gain: Gain = 1.0
    side: Annotated[float, Meta(ge=-1, le=1, description="-1 from the image's left, 1 from its right")] = 0.0


class BlurKey(_Key, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a person is out of focus."""

    radius: Annotated[float, Meta(ge=0, le=40, description="standard deviation in pixels")]


class Cover(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something before a face, for a while."""

    kind: Literal["mask", "glasses", "sunglasses", "hat", "hand"]
    start: Seconds = 0.0
    end: Seconds = MAX_DURATION


class Blend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A face that is nobody's: the person's picture and another one's, laid over each other."""

    who: Annotated[str, Meta(description="the other demo person")]
    share: Annotated[float, Meta(gt=0, lt=1, description="of the other person, 0 to 1")] = 0.5


class Attack(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The person's face is not there: somebody shows a picture of it, and ``pose`` says how that is held.

    ``plays`` is how the head on a tablet turns meanwhile.
    """

    kind: Literal["print", "bent", "tablet", "mask"]
    plays: Annotated[tuple[PoseKey, ...], Meta(max_length=MAX_KEYS)] = ()

    def __post_init__(self) -> None:
        _ascending(self.plays)
        if self.plays and self.kind != "tablet":
            raise ValueError("only a tablet plays anything")


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One demo person in the scene; listed later means nearer to the camera."""

    who: Annotated[str, Meta(description="a demo person: person-01 and so on")]
    path: Annotated[tuple[PathKey, ...], Meta(min_length=1, max_length=MAX_KEYS)]
    picture: Annotated[int, Meta(ge=1, le=4, description="which of the person's pictures, 1 is frontal")] = 1
    blend: Blend | None = None
    coat: Annotated[Colour | None, Meta(description="colour of the clothes; default: the person's own")] = None
    attack: Attack | None = None
    obeys: Annotated[bool, Meta(description="turns the head as the door asks, where somebody plays that")] = False
    appears: Seconds = 0.0
    leaves: Seconds = MAX_DURATION
    pose: Annotated[tuple[PoseKey, ...], Meta(max_length=MAX_KEYS)] = ()
    light: Annotated[tuple[LightKey, ...], Meta(max_length=MAX_KEYS)] = ()
    blur: Annotated[tuple[BlurKey, ...], Meta(max_length=MAX_KEYS)] = ()
    covers: Annotated[tuple[Cover, ...], Meta(max_length=8)] = ()
    sway: Annotated[float, Meta(ge=0, le=0.2, description="idle movement as a share of the face height")] = 0.01

    def __post_init__(self) -> None:
        if self.who not in PERSON_IDS or (self.blend is not None and self.blend.who not in PERSON_IDS):
            raise ValueError(f"there is no demo person of that name; known: {PERSON_IDS[0]} to {PERSON_IDS[-1]}")
        for keys in (self.path, self.pose, self.light, self.blur):
            _ascending(keys)


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="plain"):
    """One colour."""

    colour: Colour = "#b4b8ba"


class Gradient(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gradient"):
    """From one colour at the top to another at the bottom."""

    top: Colour = "#c8ccce"
    bottom: Colour = "#7c7f80"


class Room(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="room"):
    """A wall, a floor and a door, invented from ``variant``."""

    variant: Annotated[int, Meta(ge=0, le=9999)] = 0
    door: bool = True
    window: bool = False


class Rain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="rain"):
    """Drops that fall near the camera, others in each frame."""

    drops: Annotated[int, Meta(ge=1, le=1000, description="in view at a time")] = 60


class Insect(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="insect"):
    """Something small and dark that flies about."""

    size: Annotated[int, Meta(ge=1, le=64, description="pixels")] = 12


class Flag(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="flag"):
    """A cloth in the wind, behind everybody."""

    box: Annotated[tuple[int, int, int, int], Meta(description="x0, y0, x1, y1 in pixels")]
    colour: Colour = "#a03028"


class Flicker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="flicker"):
    """Lamps that a rolling shutter sees as bands."""

    depth: Annotated[float, Meta(ge=0, le=0.4, description="share of the light, 0 to 0.4")] = 0.1
    bands: Annotated[float, Meta(ge=0, le=8, description="from top to bottom; 0: the whole picture at once")] = 2.0
    hertz: Annotated[float, Meta(ge=0, le=60)] = 3.1


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="code"):
    """A code on white paper that somebody holds up; ``rows`` are its modules, 1 is dark."""

    rows: Annotated[tuple[Annotated[str, Meta(pattern="^[01]{21,177}$")], ...], Meta(min_length=21, max_length=177)]
    x: Annotated[int, Meta(ge=0, le=MAX_SIDE, description="left edge of the paper, pixels")]
    y: Annotated[int, Meta(ge=0, le=MAX_SIDE, description="upper edge of the paper, pixels")]
    module: Annotated[float, Meta(gt=0.5, le=20, description="pixels of a module")] = 3.0
    appears: Seconds = 0.0
    leaves: Seconds = MAX_DURATION


Disturbance = Code | Rain | Insect | Flag | Flicker


class SceneScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole scene. The same script gives the same bytes in every frame."""

    size: tuple[Side, Side] = (1280, 720)
    frames_per_second: Annotated[float, Meta(ge=1, le=60)] = 12.0
    duration: Annotated[float, Meta(gt=0, le=MAX_DURATION, description="seconds")]
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    background: Plain | Gradient | Room = Plain()
    light: Annotated[tuple[GainKey, ...], Meta(max_length=MAX_KEYS)] = ()
    backlight: Annotated[Share, Meta(description="0 to 1: bright background, dark faces")] = 0.0
    noise: Annotated[float, Meta(ge=0, le=12, description="sensor noise, standard deviation in grey levels")] = 2.0
    motion_blur: Annotated[Share, Meta(description="share of the frame time that the shutter is open")] = 0.25
    people: Annotated[tuple[Person, ...], Meta(max_length=MAX_PEOPLE)] = ()
    disturbances: Annotated[tuple[Disturbance, ...], Meta(max_length=8)] = ()
    presses: Annotated[
        tuple[Seconds, ...], Meta(max_length=MAX_KEYS, description="when somebody presses a button")
    ] = ()

    def __post_init__(self) -> None:
        _ascending(self.light)

    @property
    def frame_count(self) -> int:
        """Frames in the scene, at least one."""
        return max(1, round(self.duration * self.frames_per_second))


def load_script(path: Path) -> SceneScript:
    """Read a script; raises ConfigError with file, line and key."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_SCRIPT_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the scene: {error.strerror}") from error
    return parse_script(content, path)


def parse_script(content: bytes, path: Path) -> SceneScript:
    """Check the bytes of ``path``; raises ConfigError with file, line and key."""
    document = parse_document(content, path)
    try:
        return convert(document.data, SceneScript)
    except msgspec.ValidationError as error:
        raise _refusal(document, str(error)) from error


def _ascending(keys: tuple[_Key, ...]) -> None:
    if any(later.at <= earlier.at for earlier, later in itertools.pairwise(keys)):
        raise ValueError("the keys must be in order of time, no two at the same")


def _refusal(document: Document, text: str) -> ConfigError:
    """Msgspec's sentence with its path as file, line and key."""
    reason, _, inner = text.partition(" - at `$")
    parts = re.findall(r"\.?([A-Za-z_]+)|\[(\d+)\]", inner.removesuffix("`"))
    place: Place = tuple(int(index) if index else name for name, index in parts)
    return ConfigError(f"{document.file}:{document.line(place)}: {dotted(place)}: {reason[:1].lower()}{reason[1:]}")
