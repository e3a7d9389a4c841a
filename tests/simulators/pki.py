# SPDX-License-Identifier: Apache-2.0
"""A throw-away certificate authority: good, expired, foreign and revoked certificates on demand."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.mqtt.credentials import Credentials

DAY = timedelta(days=1)
LASTS = 3 * DAY  # some tests skip a day


class Authority:
    """One site's authority; everything lies in ``folder``."""

    def __init__(self, folder: Path, name: str = "test site") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._revoked: list[int] = []
        self._certificate = self._sign(self._name, self._key, ca=True)
        self.ca = folder / "ca.crt"
        self.crl = folder / "ca.crl"
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))
        self._write_crl()

    def issue(
        self,
        common_name: str,
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
        server: bool = False,
        file: str | None = None,
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = self._sign(subject, key, begins=begins, ends=ends, server=server)
        stem = self.folder / (file or common_name)
        stem.with_suffix(".crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        key_file = stem.with_suffix(".key")
        key_file.touch(mode=0o600)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Credentials(self.ca, stem.with_suffix(".crt"), key_file)

    def revoke(self, credentials: Credentials) -> None:
        certificate = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
        self._revoked.append(certificate.serial_number)
        self._write_crl()

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        begins: datetime | None = None,
        ends: datetime | None = None,
        server: bool = False,
        ca: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins or now - DAY)
            .not_valid_after(ends or now + (3650 * DAY if ca else LASTS))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if server:
            addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
            names = [x509.DNSName("localhost"), *addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write_crl(self) -> None:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - DAY)
            .next_update(now + LASTS)
        )
        for serial in self._revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        self.crl.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
