# SPDX-License-Identifier: Apache-2.0
"""The settings of a site's units: one file, checked as a whole, numbered when it is applied, signed for each unit.

The file has ``site``, ``all`` (settings of every unit) and ``units`` (what is different at one). What a site may set is
``agent.config.site_settings``; everything else stands in each unit's own file. Once applied, the file is needed no
more: what it said is kept here, with its lines, and the service signs each unit's part when it hears that it lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.clock import Clock
from agent.config.check import Problem, convert, problems_in, refusal
from agent.config.drawn import refuse_zone
from agent.config.site_settings import LOCAL, ActivationChange, Settings, digest_of_settings, is_local
from agent.disk.files import read_bounded, write_atomic
from agent.errors import RefusedError
from agent.parse import strict_json
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, decode
from agent.parse.strict_yaml import Document, Place, dotted, read_document
from agent.protocol.configuration import VALID_DAYS, Configuration
from agent.protocol.health import ConfigurationState
from agent.protocol.names import Name, round_down
from agent.protocol.record import load, save
from agent.site.folder import SYSTEM_CLOCK, SiteFolder, changing, check_site
from agent.site.records import SiteFiles, SiteRecord

MAX_BYTES = 512 * 1024  # kept; two hundred units that differ in everything
ADVICE = "give the path of the site's own file, or begin with a copy of fleet.example.yaml"
MAX_UNITS = 256  # that differ
MAX_LISTED = 12  # units in one sentence


class SiteConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The site's file."""

    site: Annotated[Name, Meta(description="the site's name, so that no file is applied to another site")]
    all: Settings = msgspec.field(default_factory=Settings)
    units: Annotated[
        dict[Name, Settings], Meta(max_length=MAX_UNITS, description="what is different at one unit, by its name")
    ] = msgspec.field(default_factory=dict)


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``configuration.json``: what was applied last; ``serial`` 0 before the first. ``lines`` are by dotted place."""

    version: Literal[1] = 1
    serial: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0
    file: Annotated[str, Meta(max_length=64)] = ""
    all: dict[str, Any] = msgspec.field(default_factory=dict)
    units: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    lines: dict[str, int] = msgspec.field(default_factory=dict)

    def of(self, unit: str) -> tuple[Settings, dict[str, int]]:
        """What a unit is to have, and the line of each value."""
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for where, given in (("all", self.all), (f"units.{unit}", self.units.get(unit, {}))):
            for place, value in _values(given):
                section = found if len(place) == 1 else found.setdefault(place[0], {})
                section[place[-1]] = value
                if (line := self.lines.get(f"{where}.{dotted(place)}")) is not None:
                    lines[dotted(place)] = line
        return strict_json.convert(found, Settings), lines


def check_file(folder: Path, file: Path) -> tuple[Document, SiteConfiguration]:
    """Read the site's file and check it against schema and site; ConfigError has every mistake with its line."""
    files, document = check_site(folder), read_document(file, ADVICE)
    problems = [_told_why(problem) for problem in problems_in(document, SiteConfiguration)]
    found = {place for place, _ in problems}
    problems += [problem for problem in _wrong(document.data, files) if problem[0] not in found]
    if problems:
        raise refusal(document, problems)
    return document, convert(document, SiteConfiguration)


def apply_file(folder: Path, file: Path, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Have every unit set as the file says; its serial. Needs none of the root's keys where there is a service.

    Raises ConfigError as ``check_file``, and RefusedError for settings that are too long for a unit.
    """
    document, read = check_file(folder, file)
    with changing(folder, clock=clock, needs_root=False) as site:
        record = load(site.files.record, SiteRecord)
        record = msgspec.structs.replace(record, configurations=_last_serial(site.files, record) + 1)
        fresh = Applied(
            serial=record.configurations,
            file=file.name[-64:],
            all=msgspec.to_builtins(read.all),
            units={name: msgspec.to_builtins(settings) for name, settings in read.units.items()},
            lines={dotted(place): line for place, line in document.lines.items() if place[0] in ("all", "units")},
        )
        for unit in (record.unit for record in site.files.all_units() if not record.revoked):
            _signed(site, fresh, unit)  # what is too long is refused before anything is written
        save(site.files.record, record)  # before anything has the number: units take none twice
        site.log("configuration_applied", serial=fresh.serial, units=len(fresh.units))
        write_atomic(site.files.configuration, msgspec.json.encode(fresh))
        return fresh.serial


def applied(files: SiteFiles) -> Applied:
    """What was applied last. RefusedError when the file is damaged: its number stands in the site's record."""
    if not files.configuration.exists():
        return Applied()
    try:
        return decode(read_bounded(files.configuration, MAX_BYTES), Applied, MAX_BYTES, floats=True)
    except StrictJsonError:
        raise RefusedError(
            f"{files.configuration} is damaged: remove it, then apply the site's file again (postern site config apply)"
        ) from None


def raise_serial(files: SiteFiles, by: int) -> None:
    """Number what was applied last, and what will be, above all that was applied since the folder's backup."""
    newest, record = applied(files), load(files.record, SiteRecord)
    raised = min(_last_serial(files, record) + by, MAX_SAFE_INTEGER - by)
    save(files.record, msgspec.structs.replace(record, configurations=raised))
    if newest.serial:
        write_atomic(files.configuration, msgspec.json.encode(msgspec.structs.replace(newest, serial=raised)))


def _last_serial(files: SiteFiles, record: SiteRecord) -> int:
    """Number of what was applied last, also where the file of it was lost; a release before kept it there alone."""
    try:
        return max(record.configurations, applied(files).serial)
    except RefusedError:
        return record.configurations


def due(files: SiteFiles, unit: str, has: ConfigurationState | None) -> int | None:
    """Serial of what a unit lacks; None when it lacks nothing, or refused it or took it back."""
    newest = applied(files)
    settings, _ = newest.of(unit)
    if has is None:
        return None if settings == Settings() else newest.serial
    other = has.digest != digest_of_settings(settings)
    if has.serial < newest.serial:
        return newest.serial if other or has.state != "applied" else None
    # Somebody else numbered what the unit has: a thief of the service, whose mandate was replaced, or this folder was
    # put back. The unit takes this by a newer mandate alone, and says so otherwise.
    return newest.serial if newest.serial and other and has.state == "applied" else None


def sign_for(folder: Path, unit: str, *, clock: Clock = SYSTEM_CLOCK) -> str:
    """Sign what a unit is to have, for the service or to be carried. RefusedError where nothing was applied."""
    with changing(folder, clock=clock, needs_root=False) as site:
        newest = applied(site.files)
        if not newest.serial:
            raise RefusedError("no configuration was applied yet: postern site config apply FILE")
        if site.unit(unit).revoked:
            raise RefusedError("this unit is revoked: it gets no more settings")
        token = _signed(site, newest, unit)
        site.log("configuration_signed", unit=unit, serial=newest.serial)
        return token


def _signed(site: SiteFolder, newest: Applied, unit: str) -> str:
    settings, lines = newest.of(unit)
    return Configuration(
        version=1,
        site=site.name,
        unit=unit,
        serial=newest.serial,
        issued_at=site.stamp(),
        expires_at=round_down(site.now() + timedelta(days=VALID_DAYS), 1),
        file=newest.file,
        settings=msgspec.to_builtins(settings),
        lines=lines,
    ).sign(site.signs)


def _values(given: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, section in given.items():
        if isinstance(section, dict):
            yield from (((name, key), value) for key, value in section.items())
        else:
            yield (name,), section


def _told_why(problem: Problem) -> Problem:
    """Say of a key that a unit's own file has, and the site's may not, why that is so."""
    place, text = problem
    within = place[1:] if place[0] == "all" else place[2:] if place[0] == "units" else ()
    return (place, LOCAL) if within and text.startswith("unknown key") and is_local(within) else problem


def _wrong(data: Mapping[str, Any], files: SiteFiles) -> Iterator[Problem]:
    """What the schema cannot know, of a file that may not fit it: the site's name, its units, zones that are none."""
    site, units = load(files.record, SiteRecord).site, data.get("units")
    if data.get("site", site) != site:
        yield ("site",), f"this is the file of another site; this one is {site}"
    parts: list[tuple[Place, object]] = [(("all",), data.get("all"))]
    if isinstance(units, dict):
        known = sorted(record.unit for record in files.all_units() if not record.revoked)
        for unit, settings in units.items():
            parts.append((("units", unit), settings))
            if unit not in known:
                yield ("units", unit), f"the site has no unit of this name; {_nearest(unit, known)}"
    for where, given in parts:
        if (reason := _no_zone(given)) is not None:
            yield (*where, "activation", "polygon"), reason


def _nearest(unit: str, known: list[str]) -> str:
    if len(known) > MAX_LISTED:
        return f"the nearest is {(get_close_matches(unit, known, n=1, cutoff=0.0) or known)[0]}"
    return f"there are: {', '.join(known) or 'none'}"


def _no_zone(given: object) -> str | None:
    """Why the polygon of one part of the file is no zone; None where there is none, or the schema says more of it."""
    activation = given.get("activation") if isinstance(given, dict) else None
    drawn = activation.get("polygon") if isinstance(activation, dict) else None
    try:
        corners = strict_json.convert({"polygon": drawn}, ActivationChange).polygon
    except msgspec.ValidationError:
        return None
    return None if corners is None else refuse_zone(corners)
