# SPDX-License-Identifier: Apache-2.0
"""The site's certificate authority: P-256, X.509 v3 after RFC 5280, for the TLS of broker, units and programs.

A certificate's CN is the name that the broker's access list goes by, so it holds ``[a-z0-9-]`` alone:
wildcards of MQTT in a CN once opened other clients' topics (CVE-2017-7650).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.disk.files import PUBLIC_MODE, read_bounded, write_atomic
from agent.errors import KeyStoreError, RefusedError
from agent.keys import load_private_key, save_private_key
from agent.protocol.names import parse_time, round_down
from agent.site.records import CertificateRecord

CA_DAYS = 3653  # ten years: longer than a unit lives, and nobody is there to replace the root on a door
LEAF_DAYS = 365  # renewed by a person once a year; a lost unit is revoked at once, not by waiting
ISSUING_DAYS = 400  # of the service's issuing certificate, as of its mandate: a person delegates anew once a year
ISSUED_LEAF_DAYS = 180  # renewed by the service: a unit may lie in a drawer for some months
BACKDATE = timedelta(days=1)  # a certificate is valid at once on a machine whose clock is somewhat behind
MAX_COMMON_NAME = 64  # characters (RFC 5280 appendix A.1, ub-common-name)
MAX_HOSTNAMES = 16  # names and addresses that one broker answers to

MAX_CHAIN = 2  # a holder's certificate and that of the site's service, which the root signed

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_FOREIGN = "the certificate was not issued by this site's authority: ask the site again"
# Of the 159 bits that are drawn (CA/Browser Forum: 64 or more), the first: certificates of one length, since what packs
# three into a QR code, an invitation, is a tenth longer when one is a byte shorter than the others.
_SERIAL_FLOOR = 1 << 158
_HOSTNAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,62})(\.[a-z0-9]([a-z0-9-]{0,62}))*\Z")


class Authority:
    """The authority's key and certificate, in memory."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, *, leaf_days: int = LEAF_DAYS
    ) -> None:
        self._key = key
        self.certificate = certificate
        self._leaf_days = leaf_days

    @classmethod
    def create(cls, site: str, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, authority_name(site))])
        return cls(key, _root(key, name, now - BACKDATE, now + timedelta(days=CA_DAYS)))

    @property
    def lets_issue(self) -> bool:
        """Whether a certificate below this root may issue others; a root of release 0.1 forbids it."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        return constraints.path_length != 0

    def relaxed(self) -> Authority:
        """The same root, by key, name and time, that lets a certificate below it issue others."""
        begins, ends = validity(self.certificate)
        return Authority(self._key, _root(self._key, self.certificate.subject, begins, ends))

    def delegate(self, name: str, now: datetime, key: ec.EllipticCurvePrivateKey) -> Authority:
        """Let ``key`` certify units and programs: not brokers, and nobody who certifies others (RFC 5280, EKU)."""
        self.check_time(now)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            _builder(
                subject,
                self.certificate.subject,
                key.public_key(),
                now - BACKDATE,
                min(now + timedelta(days=ISSUING_DAYS), validity(self.certificate)[1]),
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signing=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(self._issuer_key(), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Authority(key, certificate, leaf_days=ISSUED_LEAF_DAYS)

    @classmethod
    def load(cls, key: Path, certificate: Path, passphrase: bytes | None, *, leaf_days: int = LEAF_DAYS) -> Authority:
        """Read both files; KeyStoreError when they are unreadable or do not belong together."""
        loaded = cls(load_private_key(key, passphrase), read_certificate(certificate), leaf_days=leaf_days)
        if _spki(loaded._key.public_key()) != _spki(loaded.certificate.public_key()):
            raise KeyStoreError(f"{key} is not the key of {certificate}: restore the pair from its backup")
        return loaded

    def save(self, key: Path, certificate: Path, passphrase: bytes | None) -> None:
        save_private_key(self._key, key, passphrase)
        write_atomic(certificate, pem(self.certificate), mode=PUBLIC_MODE)

    def issue_client(
        self,
        name: str,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> x509.Certificate:
        """Certify a unit or program by its CN, for client authentication alone, between two moments if they are given.

        The alternative name says the same: RabbitMQ compares client ids with that alone.
        """
        if len(name) > MAX_COMMON_NAME:
            raise RefusedError(
                f"'{name}' is too long for a certificate, {len(name)} of {MAX_COMMON_NAME} characters: choose a"
                " shorter name"
            )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        again = x509.SubjectAlternativeName([x509.DNSName(name)])
        return self._leaf(subject, public_key, now, ExtendedKeyUsageOID.CLIENT_AUTH, again, since=since, until=until)

    def issue_broker(
        self, hostnames: Iterable[str], public_key: ec.EllipticCurvePublicKey, now: datetime
    ) -> x509.Certificate:
        """Certify a broker for the host names and addresses that its clients use; RefusedError for a wrong one."""
        names = [_general_name(text) for text in hostnames]
        if not 0 < len(names) <= MAX_HOSTNAMES:
            raise RefusedError(
                f"a broker needs 1 to {MAX_HOSTNAMES} host names: give those that its clients connect to"
            )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
        return self._leaf(subject, public_key, now, ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(names))

    def revocation_list(self, revoked: Iterable[CertificateRecord], now: datetime, *, above: int = 0) -> bytes:
        """Write the revocation list (RFC 5280 sec. 5) as PEM, with a number higher than ``above``.

        It is valid as long as the root: a broker refuses everybody once its list has run out, so the date must
        not depend on somebody remembering it.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + timedelta(days=CA_DAYS))
            .add_extension(self._issuer_key(), critical=False)
            .add_extension(x509.CRLNumber(max(int(now.timestamp()), above + 1)), critical=False)
        )
        for record in revoked:
            if record.revoked_at is not None:
                entry = x509.RevokedCertificateBuilder().serial_number(int(record.serial, 16))
                builder = builder.add_revoked_certificate(entry.revocation_date(parse_time(record.revoked_at)).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        now: datetime,
        purpose: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> x509.Certificate:
        self.check_time(now)
        ends = min(until or now + timedelta(days=self._leaf_days), validity(self.certificate)[1])
        if ends <= now:
            raise RefusedError(
                f"by this machine's clock ({now:%Y-%m-%d}) the certificate would have ended on {ends:%Y-%m-%d}: set the"
                " clock right; where it is, the site's authority is at its end, or its service's: make it anew"
            )
        builder = (
            _builder(subject, self.certificate.subject, public_key, (since or now) - BACKDATE, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signing=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(self._issuer_key(), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def check_time(self, now: datetime) -> None:
        """RefusedError where the clock is outside of this authority's time: what it certified would be of no use."""
        begins, ends = validity(self.certificate)
        is_root = self.certificate.issuer == self.certificate.subject
        whose, anew = ("site's", "make the site anew") if is_root else ("service's", "run 'postern site delegate'")
        says = f"this machine's clock says {now:%Y-%m-%d}"
        if now < begins:
            raise RefusedError(
                f"{says}, before the {whose} authority began on {begins:%Y-%m-%d}: set the clock right; where it is, it"
                f" was ahead then: {anew}"
            )
        if now >= ends:
            raise RefusedError(
                f"{says}, after the {whose} authority ended on {ends:%Y-%m-%d}: set the clock right; where it is,"
                f" {anew}"
            )

    def _issuer_key(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def record_of(certificate: x509.Certificate, *, issued: bool = False) -> CertificateRecord:
    """What is kept of a certificate; ``issued`` says that it is by the service's issuing key."""
    return CertificateRecord(
        serial=f"{certificate.serial_number:x}", expires_at=round_down(validity(certificate)[1], 1), issued=issued
    )


def validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    """First and last moment."""
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    # cryptography before 42 only knows times without a zone
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def make_csr(unit: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Make a certificate request (PKCS#10, RFC 2986) for a unit's TLS key, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unit)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def read_csr(content: bytes, unit: str) -> ec.EllipticCurvePublicKey:
    """Check a request's own signature, its CN and its curve; return the key to certify."""
    try:
        request = x509.load_pem_x509_csr(content)
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError) as error:
        raise RefusedError("the unit's certificate request is not readable: make a new one at the unit") from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("the unit's certificate request is not signed by a P-256 key: make a new one at the unit")
    if common_names(request.subject) != [unit]:
        raise RefusedError("the unit's certificate request is for another name: make a new one at the unit")
    return key


def read_chain(text: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM text, the holder's first; ValueError when there is none or more than a chain has."""
    found = tuple(x509.load_pem_x509_certificate(block) for block in _PEM.findall(text.encode()))
    if not 0 < len(found) <= MAX_CHAIN:
        raise ValueError("this is no chain of certificates")
    return found


def check_chain(chain: Sequence[x509.Certificate], root: x509.Certificate, name: str) -> None:
    """Make sure that the first of ``chain`` is for ``name`` and by ``root``, or by an issuer of it that follows.

    KeyStoreError otherwise.
    """
    for certificate, issuer in pairwise((*chain, root)):
        key = issuer.public_key()
        try:
            if not isinstance(key, ec.EllipticCurvePublicKey) or certificate.issuer != issuer.subject:
                raise KeyStoreError(_FOREIGN)
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
            issues = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except (InvalidSignature, x509.ExtensionNotFound, ValueError):
            raise KeyStoreError(_FOREIGN) from None
        if not issues:
            raise KeyStoreError(_FOREIGN)
    if common_names(chain[0].subject) != [name]:
        raise KeyStoreError("the certificate is for another name: ask the site again")


def read_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate file; KeyStoreError when it is missing or damaged."""
    try:
        return x509.load_pem_x509_certificate(read_bounded(path))
    except ValueError as error:
        raise KeyStoreError(f"{path} is not a certificate: restore it from its backup") from error


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def read_public_pem(text: str) -> ec.EllipticCurvePublicKey:
    """Read what ``public_pem`` wrote; KeyStoreError when it is damaged."""
    try:
        key = serialization.load_pem_public_key(text.encode())
    except ValueError as error:
        raise KeyStoreError("a unit's public key is damaged: restore the folder from its backup") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise KeyStoreError("a unit's public key is of another kind: restore the folder from its backup")
    return key


def authority_name(site: str) -> str:
    return f"{site} postern authority"


def common_names(name: x509.Name) -> list[str]:
    return [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _root(key: ec.EllipticCurvePrivateKey, name: x509.Name, begins: datetime, ends: datetime) -> x509.Certificate:
    """A root that certifies, and one that it certified may: the site's service."""
    return (
        _builder(name, name, key.public_key(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_usage(signing=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number() | _SERIAL_FLOOR)
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _usage(*, signing: bool) -> x509.KeyUsage:
    """A leaf signs handshakes; the root signs certificates and revocation lists."""
    return x509.KeyUsage(
        digital_signature=signing,
        key_cert_sign=not signing,
        crl_sign=not signing,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        if address.is_unspecified or address.is_multicast or "%" in text:
            raise RefusedError(f"{text} is no address that clients connect to: give the one that the broker has")
        return x509.IPAddress(address)
    if not _HOSTNAME.match(text) or text.rpartition(".")[2].isdecimal():  # of digits is an address, mistyped or short
        raise RefusedError("a host name holds letters a-z, digits, '-' and '.' only: correct the broker's names")
    return x509.DNSName(text)


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
