# SPDX-License-Identifier: Apache-2.0
"""What a unit keeps, opened from its configuration: for the service and for every command, one process at a time."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import msgspec

from agent.audit.ageing import Ageing
from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.config.schema import Config
from agent.disk.files import can_be_key, read_secret, write_atomic
from agent.door.rights import Rights
from agent.errors import StorageError
from agent.gallery.consent import Terms
from agent.gallery.keyring import FileKeyring
from agent.gallery.retention import Retention
from agent.gallery.store import GalleryStore
from agent.keys import DERIVED_KEY_BYTES, UnitKey
from agent.notices.notice import notice_id
from agent.outbox.numbers import Remembered
from agent.outbox.queue import OWNER_LABEL, Outbox
from agent.protocol.receipt import RECEIPT_TYPE
from agent.unit.at_the_door import rights_path
from agent.unit.generation import Generation, read_known, remembered_of
from agent.unit.key_files import KeptFiles
from agent.uplink.commands import CommandCounter


class Stores(msgspec.Struct, frozen=True):
    """What a unit keeps."""

    gallery: GalleryStore
    outbox: Outbox
    audit: AuditLog
    ageing: Ageing
    counter: CommandCounter
    generation: Generation
    rights: Rights


def open_gallery(
    config: Config,
    key: UnitKey,
    clock: Clock,
    *,
    ageing: Ageing | None = None,
    random: Callable[[int], bytes] = secrets.token_bytes,
    look_only: bool = False,
) -> GalleryStore:
    """The references of this unit, erasing nobody if ``look_only``; raises StorageError or KeyStoreError."""
    return GalleryStore(
        config.gallery.path,
        keyring=FileKeyring(config.keys.folder / "kek", random=random),
        terms=terms_of(config),
        ageing=ageing or Ageing(clock),
        sign=lambda payload: key.sign_detached(payload, typ=RECEIPT_TYPE),
        retention=Retention(config.gallery.retention_days),
        random=random,
        look_only=look_only,
    )


def open_outbox(
    config: Config,
    key: UnitKey,
    clock: Clock,
    *,
    remembered: Remembered | None = None,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> Outbox:
    """The durable queue of this unit, behind what is ``remembered`` of it; raises StorageError or KeyStoreError."""
    owner_key = config.keys.folder / "owner.key"
    if not owner_key.exists() or not can_be_key(read_secret(owner_key), DERIVED_KEY_BYTES):
        # Once: the event key may be replaced while events wait that must stay erasable.
        write_atomic(owner_key, key.derive(OWNER_LABEL))
    return Outbox(
        config.outbox.path,
        signer=key,
        owner_key=read_secret(owner_key),
        source=source_of(config),
        remembered=remembered,
        clock=clock,
        random=random,
        max_rows=config.outbox.max_rows,
        keep_days=config.outbox.keep_days,
        time_step_s=config.events.time_resolution_s,
    )


@contextmanager
def open_stores(
    config: Config, key: UnitKey, clock: Clock, *, random: Callable[[int], bytes] = secrets.token_bytes
) -> Iterator[Stores]:
    """All that the unit keeps, for one process at a time; raises StorageError or KeyStoreError."""
    files = KeptFiles(config.outbox.path)
    with (
        closing(AuditLog(config.audit.path, clock=clock, random=random)) as audit,
        closing(Ageing(clock, files.time)) as ageing,
        open_gallery(config, key, clock, ageing=ageing, random=random) as gallery,
    ):
        remembered = remembered_of(read_known(files.generation, audit))
        with (
            open_outbox(config, key, clock, remembered=remembered, random=random) as outbox,
            Rights(rights_path(config), clock, settled=ageing.settled) as rights,
        ):
            counter = CommandCounter(files.commands)
            generation = Generation(
                files.generation, gallery=gallery, audit=audit, counter=counter, outbox=outbox, rights=rights
            )
            yield Stores(gallery, outbox, audit, ageing, counter, generation, rights)
            with suppress(StorageError):  # the number of the start is good enough
                generation.advance()


def terms_of(config: Config) -> Terms:
    """What consents must name at this unit; no notice while the configuration does not say all that stands in it."""
    notice = notice_id(config) if config.notice.operator and config.notice.alternative else None
    return Terms(config.unit.site, config.unit.id, config.purpose, notice)


def source_of(config: Config) -> str:
    """The CloudEvents source of this unit."""
    return f"/postern/{config.unit.site}/{config.unit.id}"
