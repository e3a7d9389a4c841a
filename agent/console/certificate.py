# SPDX-License-Identifier: Apache-2.0
"""The certificate that the console shows to browsers, and its fingerprint, which whoever opened it was told."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.keys import load_private_key

BACKDATE: Final = timedelta(days=1)  # for browsers whose clock is behind
VALID: Final = timedelta(days=30)  # made anew at each opening; a unit whose clock is wrong makes another then


def certificate_of(folder: Path) -> Path:
    return folder / "console.crt"


def make_key(file: Path) -> None:
    """Write a new TLS key to ``file``, for a console that is no unit's; raises StorageError."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_atomic(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def make_certificate(unit: str, address: str, key: Path, certificate: Path, clock: Clock) -> str:
    """Write a certificate for ``address`` over the unit's own TLS key to ``certificate``; its fingerprint.

    SHA-256 as browsers show it: pairs of digits with colons between. The certificate that the site issued is for
    sessions with the broker and names no address, so browsers take none of it. This one is by the same key, and its
    fingerprint is told by whoever opened the console: in the unit's signed answer, or at the unit. Raises KeyStoreError
    and StorageError.
    """
    private, now = load_private_key(key), clock.now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, unit)])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    write_atomic(certificate, made.public_bytes(Encoding.PEM), mode=PUBLIC_MODE)
    return made.fingerprint(hashes.SHA256()).hex(":").upper()
