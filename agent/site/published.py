# SPDX-License-Identifier: Apache-2.0
"""What follows from a site's records: the revocation list, the list of units and the access list.

An act writes its record first and these after it, so a power cut in between leaves files that do not follow
from the records. Comparing the two finds that, whatever act it was; the next act then completes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.disk.files import read_bounded
from agent.errors import KeyStoreError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey, decode_base64url, load_public_key
from agent.parse import strict_json
from agent.protocol.grant import SEPARATOR
from agent.protocol.names import JOINING_SUFFIX
from agent.protocol.record import load
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.site.acl import Rules
from agent.site.authority import read_certificate
from agent.site.kinds import KINDS
from agent.site.records import (
    BrokerKind,
    CertificateRecord,
    ClientRecord,
    SiteFiles,
    SiteRecord,
    TokenFile,
    UnitRecord,
)

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n?", re.DOTALL)
MAX_LIST_BYTES = 16 * 1024 * 1024  # 4 000 units and programs with 64 revoked certificates of some 40 bytes each


class Unfinished(NamedTuple):
    """Files that do not follow from the records, and the units and programs that they differ in."""

    files: tuple[str, ...]
    names: tuple[str, ...]


class Published(msgspec.Struct, frozen=True):
    """What the three files say: who is shut out, by serial number; whom to believe; who may do what.

    ``revoked`` is the root's list, ``issued_revoked`` that of the service's issuing key. None stands for a file that is
    missing, damaged or signed by another key.
    """

    revoked: frozenset[int] | None
    issued_revoked: frozenset[int] | None
    trusted: Mapping[str, tuple[UnitKeyEntry, ...]] | None
    acl: str | None
    kind: BrokerKind = "mosquitto"  # of the broker that ``acl`` is for

    @classmethod
    def of(cls, files: SiteFiles, units: Iterable[UnitRecord], clients: Iterable[ClientRecord]) -> Published:
        """Say what follows from these records, and from what else is in the folder."""
        units, clients = tuple(units), tuple(clients)
        out = [record for record in certificates(units, clients) if record.revoked_at]
        rules = Rules.of(
            load(files.record, SiteRecord).site,
            [unit.unit for unit in units if not unit.revoked],
            [(client.name, client.role) for client in clients if not client.revoked],
            revoked=[unit.unit for unit in units if unit.revoked],
            joining=_invited(files),
        )
        return cls(
            frozenset(int(record.serial, 16) for record in out if not record.issued),
            frozenset(int(record.serial, 16) for record in out if record.issued)
            if files.issuing_crt.exists()
            else None,
            {unit.unit: unit.keys for unit in units},
            KINDS[files.broker_kind].spell(rules),
            files.broker_kind,
        )

    @classmethod
    def read(cls, files: SiteFiles, site_key: PublicKey) -> Published:
        """Say what stands in the files now."""
        return cls(
            *_read_revoked(files),
            _read_trusted(files.trust, site_key),
            _read_text(files.acl),
            files.broker_kind,
        )

    def differing(self, other: Published) -> tuple[str, ...]:
        """Name the units and programs that the list of units or the access list speaks of differently."""
        mine, others = self.trusted or {}, other.trusted or {}
        entries, other_entries = (KINDS[one.kind].by_name(one.acl or "") for one in (self, other))
        names = {name for name in {*mine, *others} if mine.get(name) != others.get(name)}
        names |= {name for name in {*entries, *other_entries} if entries.get(name) != other_entries.get(name)}
        return tuple(sorted(names))


def certificates(units: Iterable[UnitRecord], clients: Iterable[ClientRecord]) -> tuple[CertificateRecord, ...]:
    of_units = (certificate for unit in units for certificate in unit.certificates)
    of_clients = (certificate for client in clients for certificate in client.certificates)
    return (*of_units, *of_clients)


def unfinished(files: SiteFiles) -> Unfinished:
    """Say, without any private key, what an interrupted act has left undone; KeyStoreError for damaged records."""
    wanted = Published.of(files, files.all_units(), files.all_clients())
    found = Published.read(files, load_public_key(files.site_jwk))
    check_kept(files, wanted, found)
    compared = (
        (files.crl, (wanted.revoked, wanted.issued_revoked), (found.revoked, found.issued_revoked)),
        (files.trust, wanted.trusted, found.trusted),
        (files.acl, wanted.acl, found.acl),
    )
    names = [path.name for path, due, is_ in compared if due != is_]
    names += [files.brokers_crl.name] if unlisted_brokers(files) else []
    return Unfinished(tuple(names), wanted.differing(found))


def unlisted_brokers(files: SiteFiles) -> tuple[CertificateRecord, ...]:
    """The broker's certificates that nobody is to believe, where the list of them does not name each."""
    broker = files.known_broker
    revoked = tuple(one for one in broker.certificates if one.revoked_at) if broker is not None else ()
    try:
        listed = x509.load_pem_x509_crl(read_bounded(files.brokers_crl, MAX_LIST_BYTES))
        named = {entry.serial_number for entry in listed}
    except (KeyStoreError, ValueError):
        named = set()
    return () if all(int(one.serial, 16) in named for one in revoked) else revoked


def check_kept(files: SiteFiles, wanted: Published, found: Published) -> None:
    """KeyStoreError where a unit of the present list has no record: by the next one nobody would know of it any more.

    A record is written before the list, and stays when its unit is revoked: it was lost.
    """
    lost = sorted({*(found.trusted or {})} - {*(wanted.trusted or {})})
    if lost:
        raise KeyStoreError(
            f"{files.unit(lost[0])} is gone, and the list of units names it: restore it from the folder's backup, or"
            f" without one take {files.trust} away, and let the unit join anew"
        )


def list_number(path: Path) -> int:
    """Highest number of a revocation list in ``path``; 0 when there is none that can be read.

    The next one gets a higher number also where the site's clock went back: readers take no lower one.
    """
    try:
        blocks = _CRL.findall(read_bounded(path, MAX_LIST_BYTES))
        listed = [x509.load_pem_x509_crl(block) for block in blocks]
        numbers = (one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for one in listed)
        return max(numbers, default=0)
    except (KeyStoreError, ValueError, x509.ExtensionNotFound):
        return 0


def read_lists(files: SiteFiles) -> dict[bool, bytes]:
    """The broker's revocation lists as PEM: the root's (False), and that of the issuing key (True)."""
    try:
        blocks = _CRL.findall(read_bounded(files.crl, MAX_LIST_BYTES))
    except KeyStoreError:
        return {}
    issuers = {False: read_certificate(files.ca_crt).public_key()}
    if files.issuing_crt.exists():
        issuers[True] = read_certificate(files.issuing_crt).public_key()
    found: dict[bool, bytes] = {}
    for block in blocks:
        try:
            listed = x509.load_pem_x509_crl(block)
        except ValueError:
            continue
        for which, issuer in issuers.items():
            if isinstance(issuer, ec.EllipticCurvePublicKey) and listed.is_signature_valid(issuer):
                found.setdefault(which, block)
    return found


def _read_revoked(files: SiteFiles) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    lists = read_lists(files)
    root, issued = (
        frozenset(entry.serial_number for entry in x509.load_pem_x509_crl(lists[which])) if which in lists else None
        for which in (False, True)
    )
    return root, issued


def read_units(token: bytes, site_key: PublicKey) -> Mapping[str, tuple[UnitKeyEntry, ...]]:
    """What stands in a list that the site signed. VerificationError as ``TrustedUnits.from_signed``, ValueError."""
    TrustedUnits.from_signed(token, site_key)
    payload = decode_base64url(token.decode("ascii").strip().rpartition(SEPARATOR)[2].split(".")[1])
    return strict_json.decode(payload, TrustList, MAX_TOKEN_BYTES).units


def _read_trusted(trust: Path, site_key: PublicKey) -> Mapping[str, tuple[UnitKeyEntry, ...]] | None:
    try:
        return read_units(read_bounded(trust, MAX_TOKEN_BYTES), site_key)
    except (KeyStoreError, VerificationError, ValueError):
        return None


def _read_text(path: Path) -> str | None:
    try:
        return read_bounded(path, MAX_LIST_BYTES).decode()
    except (KeyStoreError, ValueError):
        return None


def _invited(files: SiteFiles) -> list[str]:
    """Names in the certificates of open invitations; what has expired is refused by its certificate."""
    tokens = load(files.tokens, TokenFile, secret=True).tokens
    return sorted({token.unit + JOINING_SUFFIX for token in tokens if token.invited})
