# SPDX-License-Identifier: Apache-2.0
"""An opened site folder: its keys, its records, and the three files that follow from the records.

Order of writes: a record first, then what follows from it (revocation list, list of units, access list).
``refresh`` derives all three anew, so it also completes an act that a power cut ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path

import msgspec

from agent.audit import AuditLog
from agent.clock import Clock, SystemClock
from agent.errors import RefusedError
from agent.files import PUBLIC_MODE, write_atomic
from agent.keys import SigningKey
from agent.outbox.event import parse_time, round_down
from agent.outbox.trust import TrustList
from agent.site.acl import acl_file
from agent.site.authority import Authority
from agent.site.records import (
    MAX_CERTIFICATES,
    CertificateRecord,
    ClientRecord,
    SiteFiles,
    SiteRecord,
    UnitRecord,
    load,
    save,
)

SYSTEM_CLOCK: Clock = SystemClock()


class Office:
    """What every act of the site kit works with; one process at a time."""

    def __init__(
        self, files: SiteFiles, *, clock: Clock, passphrase: bytes | None, random: Callable[[int], bytes]
    ) -> None:
        self.files = files
        self.random = random
        self._clock = clock
        self._passphrase = passphrase
        self._log = AuditLog(files.audit, clock=clock, random=random)

    @cached_property
    def site(self) -> str:
        """The site's name."""
        return load(self.files.record, SiteRecord).site

    @cached_property
    def generation(self) -> int:
        """Which epoch keys are issued now."""
        return load(self.files.record, SiteRecord).generation

    @cached_property
    def authority(self) -> Authority:
        return Authority.load(self.files.ca_key, self.files.ca_crt, self._passphrase)

    @cached_property
    def signer(self) -> SigningKey:
        """The key of commands, policies and the list of units."""
        return SigningKey.load(self.files.site_key, self._passphrase)

    @cached_property
    def master(self) -> SigningKey:
        """The key that all epoch keys are derived from; it signs nothing."""
        return SigningKey.load(self.files.master_key, self._passphrase)

    def now(self) -> datetime:
        return self._clock.now()

    def stamp(self) -> str:
        """Spell this moment."""
        return round_down(self.now(), 1)

    def log(self, step: str, **facts: str | int) -> None:
        """Write an act down."""
        self._log.append("keys_renewed", {"step": step, **facts})

    def close(self) -> None:
        self._log.close()

    def unit(self, unit: str) -> UnitRecord:
        """Find a unit; RefusedError when the site has none of this name."""
        path = self.files.unit(unit)
        if not path.exists():
            raise RefusedError("this site has no unit of that name: look at the folder 'units' for the right one")
        return load(path, UnitRecord)

    def client(self, name: str) -> ClientRecord:
        """Find a program; RefusedError when the site has none of this name."""
        path = self.files.client(name) / "client.json"
        if not path.exists():
            raise RefusedError("this site has no program of that name: look at the folder 'clients' for the right one")
        return load(path, ClientRecord)

    def kept(self, certificates: tuple[CertificateRecord, ...]) -> tuple[CertificateRecord, ...]:
        """Leave out what has expired: it needs no revocation any more."""
        now = self.now()
        return tuple(record for record in certificates if parse_time(record.expires_at) > now)[-MAX_CERTIFICATES:]

    def revoked(self, certificates: tuple[CertificateRecord, ...]) -> tuple[CertificateRecord, ...]:
        """Mark all as revoked now, unless they are already."""
        stamp = self.stamp()
        return tuple(
            record if record.revoked_at else msgspec.structs.replace(record, revoked_at=stamp)
            for record in certificates
        )

    def refresh(self) -> None:
        """Write the revocation list, the list of units and the access list after the records."""
        units, clients = self.files.all_units(), self.files.all_clients()
        certificates = [record for unit in units for record in unit.certificates]
        certificates += [record for client in clients for record in client.certificates]
        write_atomic(self.files.crl, self.authority.revocation_list(certificates, self.now()), mode=PUBLIC_MODE)
        record = load(self.files.record, SiteRecord)
        record = msgspec.structs.replace(record, trust_serial=record.trust_serial + 1)
        save(self.files.record, record)  # before the list: a serial is never used twice
        trusted = TrustList(
            version=1,
            site=record.site,
            serial=record.trust_serial,
            issued_at=self.stamp(),
            units={unit.unit: unit.keys for unit in units},
        )
        write_atomic(self.files.trust, trusted.sign(self.signer).encode(), mode=PUBLIC_MODE)
        acl = acl_file(
            record.site,
            [unit.unit for unit in units if not unit.revoked],
            [(client.name, client.role) for client in clients if not client.revoked],
        )
        write_atomic(self.files.acl, acl.encode(), mode=PUBLIC_MODE)


@contextmanager
def opened(
    folder: Path,
    *,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[Office]:
    """Open a site's folder for one act; RefusedError when it is none."""
    files = SiteFiles(folder)
    if not files.record.exists():
        raise RefusedError(f"{folder} is not the folder of a site: give its path, or create the site first")
    office = Office(files, clock=clock, passphrase=passphrase, random=random)
    try:
        yield office
    finally:
        office.close()
