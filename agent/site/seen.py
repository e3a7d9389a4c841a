# SPDX-License-Identifier: Apache-2.0
"""What the site's service last heard of each unit: for the list of units, and for what has to be renewed.

Health is signed by the unit and verified before it comes here; one that a broker recorded is told apart by the mark
of the newest. Info and availability are not signed: they are labels.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.clock import ClockState
from agent.disk.files import read_bounded
from agent.errors import KeyStoreError, printable
from agent.parse import strict_json
from agent.protocol.command import CONFIGURE, RENEW
from agent.protocol.health import ConfigurationState, Count, Health
from agent.protocol.names import Boot, Name, Time, parse_time
from agent.protocol.record import Record, decode

MAX_INFO_BYTES = 8192  # a document has about 1 500
MAX_TEXT = 128
FRESH = timedelta(minutes=10)  # health comes each minute, and two clocks that were set differ by less
Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Mark(Record, frozen=True):
    """Where the newest health of a unit stands: by which key, in which run, and how far its chains had come."""

    kid: Annotated[str, Meta(max_length=64)]
    boot: Boot
    uptime_s: Count
    time: Time
    seq: Count
    audit: Count


class UnitSeen(Record, frozen=True):
    """``seen/<unit>.json``. ``told`` is why the unit, or the way to it, did not take what it was sent last."""

    version: Literal[1]
    unit: Name
    at: Time | None = None  # of the last verified health
    online: bool | None = None
    epochs: Count | None = None
    certificate_days: Count | None = None
    queue: Count | None = None
    clock: ClockState | None = None
    recognition: Text | None = None
    asks: Annotated[tuple[Text, ...], Meta(max_length=4)] = ()
    release: Text | None = None
    camera: Text | None = None
    policy: Text | None = None
    policies: Count = 0  # number of the last policy that it took by the service
    models: Annotated[dict[Text, Text], Meta(max_length=8)] = msgspec.field(default_factory=dict)
    renews: bool | None = None  # whether its release takes renewals by the service
    configures: bool | None = None  # whether it takes settings and policies from afar
    configuration: ConfigurationState | None = None
    update: Text | None = None  # why its last upgrade was taken back, where it was
    brokers_crl: Text | None = None  # digest of the list of revoked brokers that it took
    told: Annotated[str, Meta(max_length=512)] | None = None
    mark: Mark | None = None


def load_seen(folder: Path, unit: str) -> UnitSeen:
    """What was last heard of ``unit``; nothing before anything was. KeyStoreError says how a damaged file is mended."""
    path = folder / f"{unit}.json"
    if not path.exists():
        return UnitSeen(version=1, unit=unit)
    try:
        return decode(read_bounded(path), UnitSeen)
    except ValueError as error:
        raise KeyStoreError(
            f"{path} is damaged: remove it and restart the site's service, the unit says all of that again in a minute"
        ) from error


class _Camera(msgspec.Struct):
    kind: Text
    width: Annotated[int, Meta(ge=0, le=100_000)]
    height: Annotated[int, Meta(ge=0, le=100_000)]


class _Info(msgspec.Struct, kw_only=True):
    """What is read of ``info``; its other members may be of a newer release."""

    version: Text
    camera: _Camera | None = None
    policy: Text | None = None
    models: Annotated[dict[Text, Text], Meta(max_length=8)] = msgspec.field(default_factory=dict)
    capabilities: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    update: Text | None = None


def mark_of(health: Health, kid: str) -> Mark:
    """Where a health document stands that the key ``kid`` signed."""
    audit = 0 if health.audit is None else int(health.audit.partition(":")[0])
    return Mark(kid=kid, boot=health.boot, uptime_s=health.uptime_s, time=health.time, seq=health.head.seq, audit=audit)


def is_replayed(mark: Mark, newest: Mark | None, now: datetime | None) -> bool:
    """Whether a verified health document with ``mark`` is one that came before, or older than one that did.

    Within a run of the unit its running time says so. Another run has gone on with the chains, unless files were put
    back; then its clock must say ``now``, which is None where unit or site do not know the time.
    """
    if newest is None or newest.kid != mark.kid:
        return False
    if newest.boot == mark.boot:
        return mark.uptime_s <= newest.uptime_s
    here, there = (mark.seq, mark.audit), (newest.seq, newest.audit)
    if here != there and all(one >= other for one, other in zip(here, there, strict=True)):
        return False
    with contextlib.suppress(ValueError):  # a moment that does not exist
        return now is None or mark.time <= newest.time or abs(now - parse_time(mark.time)) > FRESH
    return True


def with_health(seen: UnitSeen, health: Health, at: str, mark: Mark | None = None) -> UnitSeen:
    """What is known after a verified health document that came at ``at`` and stands at ``mark``.

    Where the unit knew the time it is as old as it says: one that the broker kept hides nobody's silence.
    """
    with contextlib.suppress(ValueError):  # a moment that does not exist
        if health.clock == "synced" and parse_time(health.time) < parse_time(at):
            at = health.time
    return msgspec.structs.replace(
        seen,
        at=at,
        online=True,
        epochs=health.epochs,
        certificate_days=health.certificate_days,
        queue=health.queue_depth,
        clock=health.clock,
        recognition=health.recognition,
        asks=health.asks,
        mark=mark,
        configuration=health.configuration,
    )


def with_info(seen: UnitSeen, payload: bytes) -> UnitSeen:
    """What is known after an info document; what is none changes nothing."""
    try:
        info = strict_json.convert(strict_json.loads(payload, limit=MAX_INFO_BYTES), _Info)
    except ValueError:
        return seen
    camera = "none" if info.camera is None else f"{info.camera.kind} {info.camera.width}x{info.camera.height}"
    return msgspec.structs.replace(
        seen,
        release=printable(info.version),
        camera=printable(camera),
        policy=None if info.policy is None else printable(info.policy),
        models={printable(task): printable(digest) for task, digest in info.models.items()},
        renews=RENEW in info.capabilities,
        configures=CONFIGURE in info.capabilities,
        update=None if info.update is None else printable(info.update),
    )


def with_availability(seen: UnitSeen, payload: bytes) -> UnitSeen:
    """What is known after the broker, or the unit, said whether it is there."""
    return msgspec.structs.replace(seen, online=payload == b"online")
