# SPDX-License-Identifier: Apache-2.0
"""An opened site folder: its keys, its records, and the three files that follow from the records.

Every act that needs a key opens all of them before its first write (``changing``), and signs what it will
write before it writes any of it (``put``): what is refused has changed nothing. Order of writes: the record,
the log, then what follows from the record. A power cut in between is found by comparing (``published``), and
the next act completes it first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import msgspec

from agent.audit.chain import Kind
from agent.audit.log import AuditLog
from agent.clock import Clock, SystemClock
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.files import PUBLIC_MODE, SECRET_MODE, read_bounded, write_atomic
from agent.keys import MAX_TOKEN_BYTES, SigningKey, load_public_key
from agent.protocol.names import check_name, parse_time, round_down
from agent.protocol.record import encode, load, save
from agent.protocol.trust import TrustedUnits, TrustList
from agent.site.authority import Authority
from agent.site.published import Published, certificates, list_number
from agent.site.records import MAX_CERTIFICATES, CertificateRecord, ClientRecord, SiteFiles, SiteRecord, UnitRecord

SYSTEM_CLOCK: Clock = SystemClock()
_KINDS: dict[str, Kind] = {"policy_signed": "policy_changed"}  # of acts that are about no key
LIST_DAYS = 400  # the list of units ends later than any certificate, with which a new list is carried anyway
RENEWED_DAYS = 30  # a list that is older is written anew at the next act
WAIT_S = 30.0  # seconds that an act waits for another one at work; each takes less than one
ANOTHER_ACT = "another 'postern site' command is at work there: let it end, then try again"
MAX_NAMED = 8  # names that the log gives of an act that was interrupted; one act changes one name


class SiteFolder:
    """What every act of the site kit works with; one process at a time."""

    def __init__(
        self, files: SiteFiles, *, clock: Clock, passphrase: bytes | None, random: Callable[[int], bytes]
    ) -> None:
        self.files = files
        self.random = random
        self._clock = clock
        self._passphrase = passphrase
        self._log = AuditLog(files.audit, clock=clock, random=random, wait_s=WAIT_S, advice=ANOTHER_ACT)

    @cached_property
    def name(self) -> str:
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
        if self.files.next_site_key.exists() and read_bounded(self.files.site_key).startswith(b"\0"):
            raise KeyStoreError("the site's key was being replaced: end that with 'postern site change-key --finish'")
        return SigningKey.load(self.files.site_key, self._passphrase)

    @cached_property
    def master(self) -> SigningKey:
        """The key that all epoch keys are derived from; it signs nothing."""
        return SigningKey.load(self.files.master_key, self._passphrase)

    def now(self) -> datetime:
        return self._clock.now()

    def stamp(self) -> str:
        return round_down(self.now(), 1)

    def log(self, step: str, **facts: str | int) -> None:
        self._log.append(_KINDS.get(step, "keys_renewed"), {"step": step, **facts})

    def close(self) -> None:
        self._log.close()

    def unit(self, unit: str) -> UnitRecord:
        """Find a unit; RefusedError when the site has none of this name."""
        path = self.files.unit(check_name("unit", unit))
        if not path.exists():
            raise RefusedError("this site has no unit of that name: look at the folder 'units' for the right one")
        return load(path, UnitRecord)

    def client(self, name: str) -> ClientRecord:
        """Find a program; RefusedError when the site has none of this name."""
        path = self.files.program(check_name("program", name))
        if not path.exists():
            raise RefusedError("this site has no program of that name: look at the folder 'programs' for the right one")
        return load(path, ClientRecord)

    def kept(self, issued: tuple[CertificateRecord, ...]) -> tuple[CertificateRecord, ...]:
        """Leave out what has expired: it needs no revocation any more. RefusedError when too many still count."""
        now = self.now()
        counting = tuple(record for record in issued if parse_time(record.expires_at) > now)
        if len(counting) > MAX_CERTIFICATES:
            raise RefusedError(
                f"{MAX_CERTIFICATES} certificates of this name have not expired, and each may have to be revoked:"
                " choose another name"
            )
        return counting

    def revoked(self, certificates: tuple[CertificateRecord, ...]) -> tuple[CertificateRecord, ...]:
        """Mark all as revoked now, unless they are already."""
        stamp = self.stamp()
        return tuple(
            record if record.revoked_at else msgspec.structs.replace(record, revoked_at=stamp)
            for record in certificates
        )

    def open_keys(self) -> None:
        """Open the three private keys; KeyStoreError for a missing or wrong passphrase."""
        _ = self.authority, self.signer, self.master

    def put(self, record: UnitRecord | ClientRecord, step: str, **facts: str | int) -> None:
        """Write a record, the log, and the files that follow. Raises before the first write what can be refused."""
        units = {unit.unit: unit for unit in self.files.all_units()}
        clients = {client.name: client for client in self.files.all_clients()}
        if isinstance(record, UnitRecord):
            path = self.files.unit(record.unit)
            units[record.unit] = record
        else:
            path = self.files.program(record.name)
            clients[record.name] = record
        writes, _ = self._prepare([units[name] for name in sorted(units)], [clients[name] for name in sorted(clients)])
        save(path, record)
        self.log(step, **facts)
        _write(writes)

    def complete(self, step: str = "act_completed", **facts: str | int) -> None:
        """Write what does not follow from the records, and log that as ``step``; nothing when all is well."""
        writes, names = self._prepare(self.files.all_units(), self.files.all_clients())
        if not writes:
            return
        if load(self.files.record, SiteRecord).trust_serial == 0:
            step, facts = "site_created", {"site": self.name}
        elif names:
            facts["names"] = " ".join(names[:MAX_NAMED])
        self.log(step, **facts)
        _write(writes)

    def _prepare(
        self, units: Sequence[UnitRecord], clients: Sequence[ClientRecord]
    ) -> tuple[list[_Write], tuple[str, ...]]:
        """Sign what does not follow from these records, in the order in which to write it; and whom it is about."""
        record = load(self.files.record, SiteRecord)
        wanted, found = Published.of(record.site, units, clients), Published.read(self.files, self.signer.public)
        writes: list[_Write] = []
        if not self.files.site_jwk.exists() or load_public_key(self.files.site_jwk).kid != self.signer.kid:
            writes.append((self.files.site_jwk, json.dumps(self.signer.public_jwk()).encode(), PUBLIC_MODE))
        if wanted.revoked != found.revoked:
            listed = self.authority.revocation_list(
                certificates(units, clients), self.now(), above=list_number(self.files.crl)
            )
            writes.append((self.files.crl, listed, PUBLIC_MODE))
        if wanted.trusted != found.trusted or self._list_is_old():
            record = msgspec.structs.replace(record, trust_serial=record.trust_serial + 1)
            trusted = TrustList(
                version=2,
                site=record.site,
                serial=record.trust_serial,
                issued_at=self.stamp(),
                expires_at=round_down(self.now() + timedelta(days=LIST_DAYS), 1),
                units={unit.unit: unit.keys for unit in units},
            )
            _check_readable(trusted)
            token = trusted.sign(self.signer).encode()
            # The record before the list: a serial is never used twice.
            writes += [(self.files.record, encode(record), SECRET_MODE), (self.files.trust, token, PUBLIC_MODE)]
        if wanted.acl is not None and wanted.acl != found.acl:
            writes.append((self.files.acl, wanted.acl.encode(), PUBLIC_MODE))
        return writes, wanted.differing(found)

    def _list_is_old(self) -> bool:
        """Whether the list of units has no end yet, or one that is nearer than a new one's by a month."""
        try:
            token = read_bounded(self.files.trust, MAX_TOKEN_BYTES)
            expires = TrustedUnits.from_signed(token, self.signer.public).expires
        except (KeyStoreError, VerificationError):
            return True
        return expires is None or expires < self.now() + timedelta(days=LIST_DAYS - RENEWED_DAYS)


_Write = tuple[Path, bytes, int]  # where, what, and with which permissions


def _check_readable(trusted: TrustList) -> None:
    try:
        TrustedUnits(trusted)
    except KeyStoreError:
        raise RefusedError("another unit has this key, or had it before: make a new request at the unit") from None


def _write(writes: Iterable[_Write]) -> None:
    for path, content, mode in writes:
        write_atomic(path, content, mode=mode)


def check_site(folder: Path) -> SiteFiles:
    """Return the files of a site; RefusedError when the folder is none."""
    files = SiteFiles(folder)
    if not files.record.exists():
        raise RefusedError(f"{folder} is not the folder of a site: give its path, or create the site first")
    return files


@contextmanager
def opened(
    folder: Path,
    *,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[SiteFolder]:
    """Open a site's folder; RefusedError when it is none."""
    with closing(SiteFolder(check_site(folder), clock=clock, passphrase=passphrase, random=random)) as site:
        yield site


@contextmanager
def changing(folder: Path, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> Iterator[SiteFolder]:
    """Open a site's folder and its keys for one act, after completing one that was interrupted.

    RefusedError when the folder is none, KeyStoreError for a missing or wrong passphrase; nothing has changed then.
    """
    with opened(folder, clock=clock, passphrase=passphrase) as site:
        site.open_keys()
        site.files.make_folders()
        site.complete()
        yield site
