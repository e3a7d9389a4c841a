# SPDX-License-Identifier: Apache-2.0
"""What is certified, and what a unit takes for its certificate: each check by itself, whatever else stands before."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.clock import SimulatedClock
from agent.errors import KeyStoreError, RefusedError
from agent.keys import save_private_key
from agent.mqtt.credentials import Credentials, load_identity
from agent.site.authority import CA_DAYS, LEAF_DAYS, Authority, check_chain, make_csr, pem, read_csr

NOW = datetime(2026, 11, 22, 9, 41, 3, tzinfo=UTC)
UNIT = "door-1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create("hq", NOW)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def flipped(text: bytes) -> bytes:
    """The PEM block with one bit of its last byte, which belongs to the signature, turned over."""
    head, *body, tail = text.strip().splitlines()
    der = bytearray(base64.b64decode(b"".join(body)))
    der[-1] ^= 1
    return b"\n".join([head, base64.b64encode(bytes(der)), tail, b""])


def request(key: object, *names: str, digest: hashes.HashAlgorithm | None) -> bytes:
    """A request by another kind of key, or with other names."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name) for name in names])
    built = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)  # type: ignore[arg-type]
    return built.public_bytes(serialization.Encoding.PEM)


def test_an_honest_request_is_read() -> None:
    key = new_key()
    assert read_csr(make_csr(UNIT, key), UNIT).public_numbers() == key.public_key().public_numbers()


@pytest.mark.parametrize(
    "content",
    [
        flipped(make_csr(UNIT, new_key())),
        request(ec.generate_private_key(ec.SECP384R1()), UNIT, digest=hashes.SHA256()),
        request(ec.generate_private_key(ec.SECP256K1()), UNIT, digest=hashes.SHA256()),
        request(rsa.generate_private_key(65537, 2048), UNIT, digest=hashes.SHA256()),
        request(ed25519.Ed25519PrivateKey.generate(), UNIT, digest=None),
        make_csr("door-2", new_key()),
        request(new_key(), digest=hashes.SHA256()),
        request(new_key(), UNIT, "door-2", digest=hashes.SHA256()),
        b"",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ],
    ids=["forged", "P-384", "secp256k1", "RSA", "Ed25519", "another name", "no name", "two names", "empty", "nonsense"],
)
def test_a_request_that_is_not_this_units_own_is_certified_by_nobody(content: bytes) -> None:
    with pytest.raises(RefusedError, match="make a new one at the unit"):
        read_csr(content, UNIT)


def test_a_certificate_is_taken_for_its_own_name_from_its_own_authority_alone(authority: Authority) -> None:
    issued = authority.issue_client(UNIT, new_key().public_key(), NOW)
    check_chain((issued,), authority.certificate, UNIT)
    with pytest.raises(KeyStoreError, match="for another name"):
        check_chain((issued,), authority.certificate, "door-2")
    with pytest.raises(KeyStoreError, match="not issued by this site's authority"):
        check_chain((issued,), Authority.create("hq", NOW).certificate, UNIT)
    with pytest.raises(KeyStoreError, match="not issued by this site's authority"):
        check_chain((issued,), Authority.create("annex", NOW).certificate, UNIT)
    forged = x509.load_pem_x509_certificate(flipped(pem(issued)))
    with pytest.raises(KeyStoreError, match="not issued by this site's authority"):
        check_chain((forged,), authority.certificate, UNIT)


def test_what_a_certificate_says_about_time_and_purpose(authority: Authority) -> None:
    client = authority.issue_client(UNIT, new_key().public_key(), NOW)
    server = authority.issue_broker(["broker.example.org"], new_key().public_key(), NOW)
    for issued, purpose in ((client, ExtendedKeyUsageOID.CLIENT_AUTH), (server, ExtendedKeyUsageOID.SERVER_AUTH)):
        begins, ends = issued.not_valid_before_utc, issued.not_valid_after_utc
        assert timedelta(0) < NOW - begins <= timedelta(days=1), "clocks differ"
        assert ends - NOW == timedelta(days=LEAF_DAYS)
        assert list(issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        limits = issued.extensions.get_extension_for_class(x509.BasicConstraints)
        assert limits.critical
        assert not limits.value.ca
    root = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert root.ca


def test_what_a_revocation_list_says_about_time(authority: Authority) -> None:
    listed = x509.load_pem_x509_crl(authority.revocation_list([], NOW))
    assert timedelta(0) < NOW - listed.last_update_utc <= timedelta(days=1), "clocks differ"
    assert listed.next_update_utc is not None
    assert listed.next_update_utc - NOW == timedelta(days=CA_DAYS), "a list that has run out shuts everybody out"


def test_an_authority_that_has_ended_vouches_for_nobody(tmp_path: Path) -> None:
    key = new_key()
    save_private_key(key, tmp_path / "tls.key")
    files = Credentials.in_folder(tmp_path)
    authority, former = Authority.create("hq", NOW), Authority.create("hq", NOW - timedelta(days=CA_DAYS + 1))
    files.certificate.write_bytes(pem(authority.issue_client(UNIT, key.public_key(), NOW)))
    files.ca.write_bytes(pem(authority.certificate))
    load_identity(files, SimulatedClock(NOW), common_name=UNIT)
    files.ca.write_bytes(pem(authority.certificate) + pem(former.certificate))
    with pytest.raises(KeyStoreError, match=r"ca\.crt expired"):
        load_identity(files, SimulatedClock(NOW), common_name=UNIT)
