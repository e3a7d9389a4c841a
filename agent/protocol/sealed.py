# SPDX-License-Identifier: Apache-2.0
"""Sealed subjects: the pseudonym encrypted to the consumer, so that a broker sees nothing stable.

HPKE base mode (RFC 9180) with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-128-GCM. ``info`` binds
site, audience and epoch, so a sealed subject cannot be moved into another event's context. The consumer
opens it to the same pseudonym that the unsealed mode would have shown, and learns nothing more.
Needs the extra ``sealed``.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519

from agent.disk.files import write_atomic
from agent.errors import ConfigError, KeyStoreError, VerificationError
from agent.keys import decode_base64url, encode_base64url, load_pem, private_pem

try:
    from cryptography.hazmat.primitives import hpke
except ImportError as error:
    raise ConfigError(
        "sealed subjects need cryptography 47 or later: install 'postern[sealed]', or set events.subject to pseudonym"
    ) from error

INFO_LABEL = b"postern/sealed/v1"
SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_128_GCM)


def generate_consumer_key() -> x25519.X25519PrivateKey:
    """Make the consumer's key; the consumer alone keeps it."""
    return x25519.X25519PrivateKey.generate()


def save_consumer_key(key: x25519.X25519PrivateKey, path: Path, passphrase: bytes | None = None) -> None:
    """Write the key as PKCS#8 PEM, mode 0600, encrypted when a passphrase is given."""
    write_atomic(path, private_pem(key, passphrase))


def load_consumer_key(path: Path, passphrase: bytes | None = None) -> x25519.X25519PrivateKey:
    """Read what ``save_consumer_key`` wrote; KeyStoreError says what to do otherwise."""
    key = load_pem(path, passphrase)
    if not isinstance(key, x25519.X25519PrivateKey):
        raise KeyStoreError(f"{path} is not an X25519 key: make one with 'postern consumer-key'")
    return key


def consumer_jwk(key: x25519.X25519PrivateKey) -> dict[str, str]:
    """Export the public half as a JWK (RFC 8037), as the unit's configuration names it."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"kty": "OKP", "crv": "X25519", "x": encode_base64url(raw)}


def read_consumer_jwk(jwk: object) -> x25519.X25519PublicKey:
    """Read the consumer's public JWK; KeyStoreError unless it is an X25519 key."""
    try:
        if isinstance(jwk, dict) and (jwk.get("kty"), jwk.get("crv")) == ("OKP", "X25519"):
            return x25519.X25519PublicKey.from_public_bytes(decode_base64url(str(jwk.get("x"))))
    except ValueError:
        pass
    raise KeyStoreError("this is not the public JWK of an X25519 key: export it again at the consumer")


def seal(name: str, consumer: x25519.X25519PublicKey, *, site: str, audience: str, epoch: str) -> str:
    """Encrypt a pseudonym (``p1_…``) to the consumer: ``s1_…``, different each time."""
    sealed = SUITE.encrypt(bytes.fromhex(name.removeprefix("p1_")), consumer, info=_info(site, audience, epoch))
    return "s1_" + encode_base64url(sealed)


def unseal(sealed: str, key: x25519.X25519PrivateKey, *, site: str, audience: str, epoch: str) -> str:
    """Open a sealed subject to its pseudonym.

    Raises VerificationError (``bad_seal``) when it was not sealed to this key for this site, audience and epoch.
    """
    try:
        content = decode_base64url(sealed.removeprefix("s1_"))
        return "p1_" + SUITE.decrypt(content, key, info=_info(site, audience, epoch)).hex()
    except (InvalidTag, ValueError):
        raise VerificationError("bad_seal", "the subject was not sealed to this key for this epoch") from None


def _info(site: str, audience: str, epoch: str) -> bytes:
    fields = (text.encode("ascii") for text in (site, audience, epoch))
    return INFO_LABEL + b"".join(bytes([len(field)]) + field for field in fields)
