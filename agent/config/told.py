# SPDX-License-Identifier: Apache-2.0
"""What the site set at this unit: kept in the unit's own folder, beside what its file says.

The file belongs to root and stays as it is. What is kept here was verified when it came (``agent.unit.configuring``),
and can say no more than ``site_settings`` lets a site say, whoever wrote it. It is one file, so that a power cut leaves
the settings of before or those of after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.config.between import problems_of
from agent.config.drawn import as_drawn
from agent.config.schema import Config
from agent.config.site_settings import Settings, overlaid, problems_with
from agent.disk.files import read_secret, write_atomic
from agent.errors import ConfigError, KeyStoreError
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, decode
from agent.parse.strict_yaml import Place, dotted
from agent.protocol.names import Digest, Sequence

MAX_BYTES = 24 * 1024  # two settings with the lines of each value have about 5 000
MAX_LINES = 64  # values that can be set are half as many
Line = Annotated[int, Meta(ge=1, le=1_000_000)]


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one serial, with where each value stands in the site's file."""

    serial: Sequence
    digest: Digest
    settings: Settings
    file: Annotated[str, Meta(max_length=64)]
    lines: Annotated[dict[str, Line], Meta(max_length=MAX_LINES)]

    def where(self, place: Place) -> str:
        """``FILE:LINE: place`` of a value, or of the nearest thing around it that the site set."""
        around = place
        while around and dotted(around) not in self.lines:
            around = around[:-1]
        line = self.lines.get(dotted(around))
        return f"{self.file}:{line}: {dotted(place)}" if line else f"{self.file}: {dotted(place)}"


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``configuration.json``: what counts, what comes back where that is on trial, and how the last one fared.

    ``serial`` is the highest that ever came, by the mandate ``mandate`` (0: by the site's own key). While ``force`` is
    on trial, ``starts`` says how many more starts it has.
    """

    v: Literal[1]
    serial: Sequence
    digest: Digest
    mandate: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
    state: Literal["trying", "applied", "refused", "rolled_back"]
    why: Annotated[str, Meta(max_length=400)] | None = None
    force: Chosen | None = None
    before: Chosen | None = None
    starts: Annotated[int, Meta(ge=0, le=16)] | None = None
    of: Annotated[str, Meta(max_length=160)] | None = None  # site and unit; a unit that moved was told nothing yet
    pictures: bool = True  # whether there were any when it came: then there have to be again


def told_file(config: Config) -> Path:
    """Where it is kept: beside the outbox."""
    return config.outbox.path.with_name("configuration.json")


def read_told(config: Config) -> Told | None:
    """What the site set; None when it set nothing, when that was another site, or it is not for this user to see."""
    try:
        told = decode(read_secret(told_file(config)), Told, MAX_BYTES, floats=True)
    except (KeyStoreError, StrictJsonError, OSError):
        return None
    return told if told.of in (None, whose(config)) else None


def whose(config: Config) -> str:
    """Site and unit, as settings are for."""
    return f"{config.unit.site}/{config.unit.id}"


def write_told(config: Config, told: Told) -> None:
    """Keep it durably. Raises StorageError."""
    write_atomic(told_file(config), msgspec.json.encode(told))


def in_force(config: Config) -> Config:
    """What a unit whose own file is ``config`` runs on: with what the site set and what was drawn there.

    Twice is as once.
    """
    told = read_told(config)
    return with_chosen(config, None if told is None else told.force)


def with_chosen(config: Config, chosen: Chosen | None) -> Config:
    """Return ``config`` with ``chosen``, where both together can be run, and with what was drawn at the unit."""
    if chosen is not None:
        whole = overlaid(config, chosen.settings)
        if not problems_of(whole):  # the file at the unit may have been changed since
            config = whole
    return as_drawn(config)


def check_chosen(config: Config, chosen: Chosen) -> None:
    """Refuse settings that this unit does not take; ConfigError says where in the site's file each of them stands."""
    if problems := problems_with(config, chosen.settings):
        raise ConfigError("\n".join(f"{chosen.where(place)}: {text}" for place, text in problems))
