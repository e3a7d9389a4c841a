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
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from agent.audit.ageing import Ageing
from agent.audit.chain import Kind
from agent.audit.log import AuditLog
from agent.clock import Clock, SystemClock
from agent.disk.files import PUBLIC_MODE, SECRET_MODE, read_bounded, write_atomic
from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey, SigningKey, load_public_key
from agent.protocol.epoch_keys import derive_epoch_key
from agent.protocol.grant import Signer
from agent.protocol.names import check_name, parse_time, round_down
from agent.protocol.pseudonym import EpochKey
from agent.protocol.record import encode, load, save
from agent.protocol.trust import TrustedUnits, TrustList
from agent.site.authority import Authority, pem, record_of
from agent.site.mandated import load_issuing, load_mandate, mandate_counts, service_epoch_key
from agent.site.newer import put_back
from agent.site.published import (
    MAX_LIST_BYTES,
    Published,
    certificates,
    check_kept,
    list_number,
    read_lists,
    unlisted_brokers,
)
from agent.site.records import MAX_CERTIFICATES, CertificateRecord, ClientRecord, SiteFiles, SiteRecord, UnitRecord

SYSTEM_CLOCK: Clock = SystemClock()
_KINDS: dict[str, Kind] = {"policy_signed": "policy_changed"}  # of acts that are about no key
DEFAULT_AUDIENCES = ("access",)
LIST_DAYS = 400  # the list of units ends later than any certificate, with which a new list is carried anyway
RENEWED_DAYS = 30  # a list that is older is written anew at the next act
WAIT_S = 30.0  # seconds that an act waits for another one at work; each takes less than one
ANOTHER_ACT = "another 'postern site' command is at work there: let it end, then try again"
KEY_WAS_CHANGING = "the site's key was being replaced: end that with 'postern site change-key --finish'"
MAX_NAMED = 8  # names that the log gives of an act that was interrupted; one act changes one name


class SiteFolder:
    """What every act of the site kit works with; one process at a time."""

    def __init__(
        self,
        files: SiteFiles,
        *,
        clock: Clock,
        passphrase: bytes | None,
        random: Callable[[int], bytes],
        by_root: bool = True,
    ) -> None:
        """``by_root`` is False for an act by the power of the site's service (``agent.site.delegation``)."""
        self.files = files
        self.random = random
        self.by_root = by_root
        self._clock = clock
        self.passphrase = passphrase
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
        return Authority.load(self.files.ca_key, self.files.ca_crt, self.passphrase)

    @cached_property
    def signer(self) -> SigningKey:
        """The key of commands, policies and the list of units."""
        if self.files.next_site_key.exists() and read_bounded(self.files.site_key).startswith(b"\0"):
            raise KeyStoreError(KEY_WAS_CHANGING)
        return SigningKey.load(self.files.site_key, self.passphrase)

    @cached_property
    def public(self) -> PublicKey:
        """What the site's documents are verified by."""
        return self.signer.public if self.by_root else load_public_key(self.files.site_jwk)

    @cached_property
    def signs(self) -> Signer:
        """Who signs answers, epoch keys and the list of units: the site's key, or its service's with the mandate."""
        return self.signer if self.by_root else load_mandate(self.files, self.public, self.name, self.now())

    @cached_property
    def issuing(self) -> Authority | None:
        """The service's issuing certificate with its key; None where nothing was delegated."""
        return load_issuing(self.files)

    def certify(
        self, name: str, key: EllipticCurvePublicKey, *, days: int | None = None
    ) -> tuple[CertificateRecord, bytes]:
        """Certify a unit or program, by the issuing key where there is one: what to keep, and the chain as PEM.

        For ``days`` where nobody renews it, but no longer than whoever issues it lasts. It begins by the settled time:
        one that begins by a clock that is ahead for an hour has everybody who took it silent until then.
        """
        issuing = self.issuing
        until = None if days is None else self.now() + timedelta(days=days)
        since = min(self._settled or self.now(), self.now())
        certificate = (issuing or self.authority).issue_client(name, key, self.now(), since=since, until=until)
        chain = pem(certificate) + (b"" if issuing is None else pem(issuing.certificate))
        return record_of(certificate, issued=issuing is not None), chain

    def epoch_key(self, audience: str, epoch: str) -> EpochKey:
        """The key of one audience and epoch; RefusedError where the service was not given it."""
        if self.by_root:
            return derive_epoch_key(
                self.master, site=self.name, audience=audience, epoch=epoch, generation=self.generation
            )
        return service_epoch_key(self.files, audience, epoch)

    @cached_property
    def master(self) -> SigningKey:
        """The key that all epoch keys are derived from; it signs nothing."""
        return SigningKey.load(self.files.master_key, self.passphrase)

    def now(self) -> datetime:
        return self._clock.now()

    @cached_property
    def _settled(self) -> datetime | None:
        """The time that the site's service settled on; None without one that runs for a day."""
        return Ageing(self._clock, self.files.service_time, look_only=True).settled()

    def is_over(self, until: str) -> bool:
        """Whether what counts ``until`` a moment may be forgotten."""
        return self._settled is not None and parse_time(until) <= self._settled

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
        """Leave out what has expired: it needs no revocation any more. RefusedError when too many still count.

        Expired by the service's settled time; by this moment's alone only where there are too many, the first first: a
        clock that is ahead for an hour would have a revoked certificate forgotten, and taken again.
        """
        issued = tuple(record for record in issued if not self.is_over(record.expires_at))
        now, surplus = self.now(), max(len(issued) - MAX_CERTIFICATES, 0)
        ended = sorted(
            (one for one in issued if parse_time(one.expires_at) <= now), key=lambda one: parse_time(one.expires_at)
        )
        gone = {one.serial for one in ended[:surplus]}
        counting = tuple(record for record in issued if record.serial not in gone)
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
        """Open all private keys that an act may need; KeyStoreError for a missing one, or a wrong passphrase."""
        if not self.by_root:
            _ = self.signs, self.issuing
            return
        if self.files.away.is_symlink() and not self.files.away.is_dir():
            raise KeyStoreError(
                f"the root's keys were taken to {self.files.away.readlink()}: bring them, then try again"
            )
        _ = self.authority, self.signer, self.master, self.issuing
        # What the key before signed is signed anew by the act that replaces it: afterwards nobody knows that key.
        if self.files.site_jwk.exists() and load_public_key(self.files.site_jwk).kid != self.signer.kid:
            raise KeyStoreError(KEY_WAS_CHANGING)

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

    def publish(self) -> None:
        """Write what follows from the records, where an act changed anything that is not a unit's or a program's."""
        _write(self._prepare(self.files.all_units(), self.files.all_clients())[0])

    def _prepare(
        self, units: Sequence[UnitRecord], clients: Sequence[ClientRecord]
    ) -> tuple[list[_Write], tuple[str, ...]]:
        """Sign what does not follow from these records, in the order in which to write it; and whom it is about.

        RefusedError in a folder that was put back from a backup.
        """
        if (why := put_back(self.files, self.public)) is not None:
            raise RefusedError(why, reason="put_back")
        record = load(self.files.record, SiteRecord)
        wanted = Published.of(self.files, units, clients)
        found = Published.read(self.files, self.public)
        check_kept(self.files, wanted, found)
        writes: list[_Write] = []
        if not self.files.site_jwk.exists() or load_public_key(self.files.site_jwk).kid != self.public.kid:
            writes.append((self.files.site_jwk, json.dumps(self.public.jwk()).encode(), PUBLIC_MODE))
        if (listed := self._revocation_lists(wanted, found, certificates(units, clients))) is not None:
            writes.append((self.files.crl, listed, PUBLIC_MODE))
        if self.by_root and (brokers := unlisted_brokers(self.files)):
            number = list_number(self.files.brokers_crl)
            listed = self.authority.revocation_list(brokers, self.now(), above=number)
            writes.append((self.files.brokers_crl, listed, PUBLIC_MODE))
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
            token = trusted.sign(self.signs).encode()
            # The record before the list: a serial is never used twice.
            writes += [(self.files.record, encode(record), SECRET_MODE), (self.files.trust, token, PUBLIC_MODE)]
        if wanted.acl is not None and wanted.acl != found.acl:
            writes.append((self.files.acl, wanted.acl.encode(), PUBLIC_MODE))
        return writes, wanted.differing(found)

    def _revocation_lists(
        self, wanted: Published, found: Published, issued: Sequence[CertificateRecord]
    ) -> bytes | None:
        """The broker's lists, one for each issuer, where one of them has to be written anew and its key is here.

        The root's waits for the root's key: until then who has an older certificate is kept out by the access list.
        """
        lists = read_lists(self.files)
        due = (
            (False, wanted.revoked != found.revoked, self._open_authority),
            (True, wanted.issued_revoked != found.issued_revoked, lambda: self.issuing),
        )
        for is_issued, differs, find in due:
            if differs and (authority := find()) is not None:
                these = [record for record in issued if record.issued == is_issued]
                lists[is_issued] = authority.revocation_list(these, self.now(), above=list_number(self.files.crl))
        former = (read_bounded(self.files.former_crl, MAX_LIST_BYTES),) if self.files.former_crl.exists() else ()
        content = b"".join((*(lists[which] for which in sorted(lists)), *former))
        is_there = self.files.crl.exists() and read_bounded(self.files.crl, MAX_LIST_BYTES) == content
        return None if is_there else content

    def _open_authority(self) -> Authority | None:
        """The root's, where it opens: the service does without."""
        if self.by_root:
            return self.authority
        try:
            return Authority.load(self.files.ca_key, self.files.ca_crt, self.passphrase)
        except KeyStoreError:
            return None

    def _list_is_old(self) -> bool:
        """Whether the list of units has no end yet, or one that is nearer than a new one's by a month."""
        try:
            token = read_bounded(self.files.trust, MAX_TOKEN_BYTES)
            listed = TrustedUnits.from_signed(token, self.public)
        except (KeyStoreError, VerificationError):
            return True
        # Whoever reads it hears by it of the service's newest mandate.
        if not self.by_root and listed.mandate != load(self.files.record, SiteRecord).mandates:
            return True
        expires = listed.expires
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
    by_root: bool = True,
) -> Iterator[SiteFolder]:
    """Open a site's folder; RefusedError when it is none."""
    files = check_site(folder)
    with closing(SiteFolder(files, clock=clock, passphrase=passphrase, random=random, by_root=by_root)) as site:
        yield site


@contextmanager
def changing(
    folder: Path,
    *,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
    needs_root: bool = True,
    shuts_out: bool = False,
    random: Callable[[int], bytes] = os.urandom,
) -> Iterator[SiteFolder]:
    """Open a site's folder and its keys for one act, after completing one that was interrupted.

    Where it does not need the root's keys and the site's service has a mandate, that is enough. An act that
    ``shuts_out`` somebody does not wait for a new mandate where the root's keys are here.
    RefusedError when the folder is none, KeyStoreError for a missing or wrong passphrase; nothing has changed then.
    """
    files = check_site(folder)
    by_root = needs_root or not files.delegated
    if shuts_out and files.site_key.exists() and not by_root:
        by_root = not mandate_counts(files, clock.now())
    with opened(folder, clock=clock, passphrase=passphrase, random=random, by_root=by_root) as site:
        site.open_keys()
        site.files.make_folders()
        site.complete()
        yield site
