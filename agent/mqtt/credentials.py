# SPDX-License-Identifier: Apache-2.0
"""The TLS identity of a unit or subscriber: checked before use, one clear sentence for each thing that can be wrong."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, REVOKED_BROKERS, read_bounded, read_secret, write_atomic
from agent.errors import BrokerError, KeyStoreError, printable
from agent.mqtt.bound import BoundedSocket

# Only forward-secret AEAD suites when the broker cannot do TLS 1.3 (RFC 9325, 4.2).
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

MAX_CHAIN = 2  # a program's certificate and that of the site's service, which the root signed
MAX_CHAIN_BYTES = 16 * 1024  # a certificate with its issuer's has 1 500
_KNOWN = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class Credentials(msgspec.Struct, frozen=True):
    """Paths of the three PEM files of a mutual TLS session.

    A list of revoked brokers counts beside ``ca``, and at ``revoked`` as well; neither need exist.
    """

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Those of a program, as the site kit made them."""
        return cls(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")


class Context(ssl.SSLContext):
    """Remembers the socket it wrapped: the MQTT library drops one whose handshake failed without closing it."""

    wrapped: ssl.SSLSocket | None = None

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:  # noqa: ANN401 - passed on as they are
        self.wrapped = super().wrap_socket(*args, **options)
        return self.wrapped


class Identity(msgspec.Struct, frozen=True):
    """A checked identity: the context to connect with, the certificate's CN and its last moment."""

    context: Context
    common_name: str
    expires: datetime


def load_identity(credentials: Credentials, clock: Clock, *, common_name: str | None = None) -> Identity:
    """Check the files and build a TLS context (1.2 minimum, 1.3 preferred, host name checked).

    Raises KeyStoreError when a file is missing, readable by others, damaged, expired, of another
    authority, of another key or of another name than ``common_name``; BrokerError when the certificate
    is not valid now and the clock was never synchronised, because waiting cures that.
    """
    chain = _certificates(credentials.certificate)
    authorities = _certificates(credentials.ca)
    leaf = chain[0]
    _check_key(credentials, leaf)
    _check_issuer(credentials, leaf, [*chain[1:], *authorities])
    name = _common_name(leaf, credentials.certificate)
    if common_name is not None and name != common_name:
        raise KeyStoreError(
            f"{credentials.certificate} is for '{printable(name)}', this is '{common_name}': install its own"
        )
    _check_validity(credentials.certificate, leaf, clock)
    for authority in authorities:
        _check_validity(credentials.ca, authority, clock)
    return Identity(_context(credentials, authorities), name, _validity(leaf)[1])


def read_ends(credentials: Credentials) -> tuple[datetime, datetime]:
    """When the certificate ends, and the last authority that can vouch for it; KeyStoreError when not readable."""
    authorities = (_validity(authority)[1] for authority in _certificates(credentials.ca))
    return _validity(_certificates(credentials.certificate)[0])[1], max(authorities)


def offer_certificate(credentials: Credentials, content: bytes, clock: Clock) -> bool:
    """Put a newer certificate in the place of the one in ``credentials``; whether it was newer and is there now.

    It has to be for the same key and name, valid now, and by an authority in ``credentials.ca``, or by an issuer of it
    that follows. Of two by such issuers the later issuer's is newer, whenever they end: a thief of the one before may
    have made theirs last for ever. Raises KeyStoreError for any other, StorageError, and BrokerError as
    ``load_identity``.
    """
    path = credentials.certificate
    if len(content) > MAX_CHAIN_BYTES or content == read_bounded(path):
        return False
    chain, former = _read(content, path), _certificates(path)
    present, by_issuers = former[0], len(chain) > 1 < len(former)
    if _age(chain, by_issuers=by_issuers) <= _age(former, by_issuers=by_issuers):
        return False
    _check_key(credentials, chain[0])
    for certificate, issuer in pairwise(chain):
        _check_issuer(credentials, certificate, [issuer])
    _check_issuer(credentials, chain[-1], _certificates(credentials.ca))
    same_name = _common_name(chain[0], path) == _common_name(present, path)
    sound = is_clients(chain[0]) and len(chain) <= MAX_CHAIN and all(_may_issue(issuer) for issuer in chain[1:])
    if not same_name or not sound:
        raise KeyStoreError(f"the certificate that was offered for {path} is another's: the present one stays")
    for certificate in chain:
        _check_validity(path, certificate, clock)
    write_atomic(path, content, mode=PUBLIC_MODE)
    return True


def _age(chain: list[x509.Certificate], *, by_issuers: bool) -> tuple[datetime, datetime]:
    """Order of two chains for one key: by when the authority certified an issuer, where both have one; by their ends.

    That is the last of a chain: those before it may be a thief's.
    """
    ends = _validity(chain[0])[1]
    return (_validity(chain[-1])[0] if by_issuers else ends), ends


def is_clients(certificate: x509.Certificate) -> bool:
    """Whether a broker takes it from a client (RFC 5280 sec. 4.2): it is for that, and nothing in it is unknown."""
    try:
        for extension in certificate.extensions:
            value = extension.value
            if extension.critical and not isinstance(value, _KNOWN):
                return False
            if isinstance(value, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CLIENT_AUTH not in value:
                return False
            if isinstance(value, x509.KeyUsage) and not value.digital_signature:
                return False
    except ValueError:  # one that stands twice, or is not readable
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _context(credentials: Credentials, authorities: list[x509.Certificate]) -> Context:
    context = Context(ssl.PROTOCOL_TLS_CLIENT)  # requires a certificate and checks the host name
    context.sslsocket_class = BoundedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)  # TLS 1.3 suites are a list of their own and stay on
    beside = credentials.ca.with_name(REVOKED_BROKERS)
    try:
        context.load_verify_locations(cafile=credentials.ca)
        for revoked in {beside, credentials.revoked or beside}:
            if revoked.exists() and _is_about(revoked, authorities):
                context.load_verify_locations(cafile=revoked)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(credentials.certificate, credentials.key)
    except (ssl.SSLError, OSError) as error:
        raise KeyStoreError(
            f"OpenSSL refuses {credentials.certificate}, its key or {REVOKED_BROKERS} ({printable(str(error))}):"
            " issue them again"
        ) from error
    return context


def _is_about(revoked: Path, authorities: list[x509.Certificate]) -> bool:
    """Whether the list is by one of these; where a unit was given another authority, the site's list says nothing."""
    try:
        issuer = x509.load_pem_x509_crl(read_bounded(revoked)).issuer
    except ValueError as error:
        raise KeyStoreError(f"{revoked} is no list of revoked brokers: copy it again") from error
    return any(authority.subject == issuer for authority in authorities)


def _certificates(path: Path) -> list[x509.Certificate]:
    return _read(read_bounded(path), path)


def _read(content: bytes, path: Path) -> list[x509.Certificate]:
    try:
        found = [x509.load_pem_x509_certificate(block) for block in _PEM_CERTIFICATE.findall(content)]
    except ValueError as error:
        raise KeyStoreError(f"{path} holds a damaged certificate: copy or issue it again") from error
    if not found:
        raise KeyStoreError(f"{path} holds no PEM certificate: copy or issue it again")
    return found


def _check_key(credentials: Credentials, leaf: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(read_secret(credentials.key), password=None)
    except TypeError as error:  # how the library says "encrypted"
        raise KeyStoreError(
            f"{credentials.key} is encrypted and nobody is there to type: store it unencrypted, mode 0600"
        ) from error
    except ValueError as error:
        raise KeyStoreError(
            f"{credentials.key} holds no usable PEM private key: make a new key and certificate"
        ) from error
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        raise KeyStoreError(
            f"{credentials.key} is not the key of {credentials.certificate}: install the pair that was issued together"
        )


def _check_issuer(credentials: Credentials, leaf: x509.Certificate, issuers: list[x509.Certificate]) -> None:
    if not any(_issued_by(leaf, issuer) for issuer in issuers):
        raise KeyStoreError(
            f"{credentials.certificate} was not issued by an authority in {credentials.ca}: install files of one site"
        )


def _issued_by(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    if leaf.issuer != issuer.subject:
        return False
    key, digest = issuer.public_key(), leaf.signature_hash_algorithm
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
            key.verify(leaf.signature, leaf.tbs_certificate_bytes, padding.PKCS1v15(), digest)
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(leaf.signature, leaf.tbs_certificate_bytes)
        else:
            return True  # rare kinds of keys are left to OpenSSL and the broker
    except InvalidSignature:
        return False
    return True


def _common_name(leaf: x509.Certificate, path: Path) -> str:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise KeyStoreError(f"{path} has {len(names)} common names and needs one: issue it again")
    return str(names[0].value)


def _validity(certificate: x509.Certificate) -> tuple[datetime, datetime]:
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_before_utc, certificate.not_valid_after_utc
    # cryptography before 42 only knows times without a zone
    return certificate.not_valid_before.replace(tzinfo=UTC), certificate.not_valid_after.replace(tzinfo=UTC)


def _check_validity(path: Path, certificate: x509.Certificate, clock: Clock) -> None:
    begins, ends = _validity(certificate)
    now = clock.now()
    unproven = "the clock was never synchronised: wait for the time server or set the clock"
    if now > ends:
        statement = f"{path} expired on {ends:%Y-%m-%d} and today is {now:%Y-%m-%d}"
        if clock.state() == "unsynced":
            raise BrokerError(f"{statement}, but {unproven}; if that day is right, have a new one issued")
        raise KeyStoreError(f"{statement}: have a new one issued")
    if now >= begins:
        return
    statement = f"{path} is valid from {begins:%Y-%m-%d %H:%M} UTC and the clock says {now:%Y-%m-%d %H:%M}"
    if clock.state() == "unsynced":
        raise BrokerError(f"{statement}, but {unproven}")
    raise KeyStoreError(f"{statement}: correct the clock here or at the station that issued it")
