# SPDX-License-Identifier: Apache-2.0
"""What follows from a site's records: the revocation list, the list of units and the access list.

An act writes its record first and these after it, so a power cut in between leaves files that do not follow
from the records. Comparing the two finds that, whatever act it was; the next act then completes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent import strict_json
from agent.errors import KeyStoreError, VerificationError
from agent.files import read_bounded
from agent.keys import MAX_TOKEN_BYTES, PublicKey, load_public_key
from agent.protocol.record import load
from agent.protocol.trust import TRUST_TYPE, TrustList, UnitKeyEntry
from agent.site.acl import acl_file
from agent.site.authority import read_certificate
from agent.site.records import CertificateRecord, ClientRecord, SiteFiles, SiteRecord, UnitRecord

MAX_LIST_BYTES = 16 * 1024 * 1024  # 4 000 units and programs with 64 revoked certificates of some 40 bytes each


class Unfinished(NamedTuple):
    """Files that do not follow from the records, and the units and programs that they differ in."""

    files: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What the three files say: who is shut out, by serial number; whom to believe; who may do what.

    None stands for a file that is missing, damaged or signed by another key.
    """

    revoked: frozenset[int] | None
    trusted: Mapping[str, tuple[UnitKeyEntry, ...]] | None
    acl: str | None

    @classmethod
    def of(cls, site: str, units: Iterable[UnitRecord], clients: Iterable[ClientRecord]) -> Published:
        """Say what follows from these records."""
        units, clients = tuple(units), tuple(clients)
        return cls(
            frozenset(int(record.serial, 16) for record in certificates(units, clients) if record.revoked_at),
            {unit.unit: unit.keys for unit in units},
            acl_file(
                site,
                [unit.unit for unit in units if not unit.revoked],
                [(client.name, client.role) for client in clients if not client.revoked],
                [unit.unit for unit in units if unit.revoked],
            ),
        )

    @classmethod
    def read(cls, files: SiteFiles, site_key: PublicKey) -> Published:
        """Say what stands in the files now."""
        return cls(
            _read_revoked(files.crl, files.ca_crt),
            _read_trusted(files.trust, site_key),
            _read_text(files.acl),
        )

    def differing(self, other: Published) -> tuple[str, ...]:
        """Name the units and programs that the list of units or the access list speaks of differently."""
        mine, others = self.trusted or {}, other.trusted or {}
        entries, other_entries = _entries(self.acl or ""), _entries(other.acl or "")
        names = {name for name in {*mine, *others} if mine.get(name) != others.get(name)}
        names |= {name for name in {*entries, *other_entries} if entries.get(name) != other_entries.get(name)}
        return tuple(sorted(names))


def certificates(units: Iterable[UnitRecord], clients: Iterable[ClientRecord]) -> tuple[CertificateRecord, ...]:
    of_units = (certificate for unit in units for certificate in unit.certificates)
    of_clients = (certificate for client in clients for certificate in client.certificates)
    return (*of_units, *of_clients)


def unfinished(files: SiteFiles) -> Unfinished:
    """Say, without any private key, what an interrupted act has left undone; KeyStoreError for damaged records."""
    wanted = Published.of(load(files.record, SiteRecord).site, files.all_units(), files.all_clients())
    found = Published.read(files, load_public_key(files.site_jwk))
    compared = (
        (files.crl, wanted.revoked, found.revoked),
        (files.trust, wanted.trusted, found.trusted),
        (files.acl, wanted.acl, found.acl),
    )
    return Unfinished(tuple(path.name for path, due, is_ in compared if due != is_), wanted.differing(found))


def list_number(path: Path) -> int:
    """Number of the revocation list at ``path``; 0 when there is none that can be read.

    The next one gets a higher number also where the site's clock went back: readers take no lower one.
    """
    try:
        listed = x509.load_pem_x509_crl(read_bounded(path, MAX_LIST_BYTES))
        return listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (KeyStoreError, ValueError, x509.ExtensionNotFound):
        return 0


def _read_revoked(crl: Path, root: Path) -> frozenset[int] | None:
    issuer = read_certificate(root).public_key()
    try:
        listed = x509.load_pem_x509_crl(read_bounded(crl, MAX_LIST_BYTES))
        if not isinstance(issuer, ec.EllipticCurvePublicKey) or not listed.is_signature_valid(issuer):
            return None
    except (KeyStoreError, ValueError):
        return None
    return frozenset(entry.serial_number for entry in listed)


def _read_trusted(trust: Path, site_key: PublicKey) -> Mapping[str, tuple[UnitKeyEntry, ...]] | None:
    try:
        token = read_bounded(trust, MAX_TOKEN_BYTES).decode("ascii").strip()
        return strict_json.decode(site_key.verify(token, typ=TRUST_TYPE), TrustList, MAX_TOKEN_BYTES).units
    except (KeyStoreError, VerificationError, ValueError):
        return None


def _read_text(path: Path) -> str | None:
    try:
        return read_bounded(path, MAX_LIST_BYTES).decode()
    except (KeyStoreError, ValueError):
        return None


def _entries(acl: str) -> dict[str, str]:
    """Split an access list by name."""
    return dict(entry.partition("\n")[::2] for entry in acl.split("user ")[1:])
