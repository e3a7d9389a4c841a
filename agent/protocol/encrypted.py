# SPDX-License-Identifier: Apache-2.0
"""Signed documents for one reader: a compact JWE (RFC 7516, ECDH-ES on P-256 with A256GCM) around a compact JWS.

A key that signs should not also decrypt: whoever reads has a key for this alone.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from agent.keys import PublicKey, load_private_key

_ALGORITHMS = ["ECDH-ES", "A256GCM"]


def encrypt(signed: str, jwk: dict[str, str]) -> str:
    """Encrypt a signed document to a public key; KeyStoreError where that is none."""
    from joserfc import jwe  # noqa: PLC0415 - a start needs none of it

    recipient = ECKey.import_key({**PublicKey.from_jwk(jwk).jwk()})
    return jwe.encrypt_compact({"alg": "ECDH-ES", "enc": "A256GCM"}, signed, recipient, algorithms=_ALGORITHMS)


def decrypt(sealed: str, key: Path) -> str | None:
    """The signed document; None where it was not encrypted to this key. KeyStoreError when the key is missing."""
    from joserfc import jwe  # noqa: PLC0415 - likewise

    private = load_private_key(key).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        signed = jwe.decrypt_compact(sealed, ECKey.import_key(private), algorithms=_ALGORITHMS).plaintext
        return (signed or b"").decode("ascii")
    except (JoseError, ValueError, TypeError, KeyError):
        return None
