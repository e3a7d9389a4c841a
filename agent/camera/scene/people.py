# SPDX-License-Identifier: Apache-2.0
"""The demo people that come with the package: nobody's faces, made by tools/train people."""

from __future__ import annotations

import io
from importlib import resources
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from PIL import Image

from agent.camera.scene.pose import PICTURE_SIDE
from agent.errors import ConfigError

PEOPLE_COUNT: Final = 32
PERSON_IDS: Final = tuple(f"person-{number:02}" for number in range(1, PEOPLE_COUNT + 1))

_FOLDER = "people"
_Colour = Annotated[str, Meta(pattern="^#[0-9a-f]{6}$")]


class DemoPerson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File names of the pictures, the first one frontal, and the colours of skin and clothes."""

    pictures: Annotated[tuple[str, ...], Meta(min_length=3)]
    skin: _Colour
    cloth: _Colour


class People(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All demo people; ``box`` is x0, y0, x1, y1 of the face in a picture, in its pixels."""

    box: tuple[float, float, float, float]
    measured: dict[str, float]
    people: dict[str, DemoPerson]

    def blended(self, who: str, other: str, share: float, number: int) -> Image.Image:
        """A face between two people's: ``share`` of ``other``; eyes and mouths lie on each other in all pictures."""
        return Image.blend(self.picture(who, number), self.picture(other, number), share)

    def picture(self, who: str, number: int) -> Image.Image:
        """Picture ``number`` (from 1; a person with fewer wraps around) as RGBA, PICTURE_SIDE on each side."""
        names = self.people[who].pictures
        content = resources.files("agent.camera").joinpath(_FOLDER, names[(number - 1) % len(names)]).read_bytes()
        picture = Image.open(io.BytesIO(content), formats=("WEBP",)).convert("RGBA")
        if picture.size != (PICTURE_SIDE, PICTURE_SIDE):
            raise ConfigError(f"the picture of {who} is damaged; install the package again")
        return picture


def load_people() -> People:
    """Read the index; raises ConfigError if the installation lacks the demo people."""
    try:
        content = resources.files("agent.camera").joinpath(_FOLDER, "people.yaml").read_bytes()
        return msgspec.yaml.decode(content, type=People)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError("the demo people are missing or damaged; install the package again") from error
