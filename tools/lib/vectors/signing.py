# SPDX-License-Identifier: Apache-2.0
"""Test keys from fixed seeds, and ES256 with the nonces of RFC 6979: the same vectors on every machine.

The signatures are made here and not by a library, because libraries that can do this are younger than those that
the product runs with. Test keys only: nothing here is safe against somebody who measures time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # n of P-256 (SEC 2 sec. 2.4.2)
SEED = b"postern test key, never use: "
WIDTH = 32  # bytes of a coordinate, of r and of s


def base64url(content: bytes) -> str:
    """Base64url without padding (RFC 7515 sec. 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


@dataclass(frozen=True)
class Key:
    """A P-256 key that everybody can compute from its name."""

    name: str

    @cached_property
    def secret(self) -> int:
        """The private scalar."""
        return int.from_bytes(hashlib.sha256(SEED + self.name.encode()).digest(), "big") % (ORDER - 1) + 1

    @cached_property
    def jwk(self) -> dict[str, str]:
        """The public half (RFC 7517)."""
        x, y = multiply(self.secret)
        return {"kty": "EC", "crv": "P-256", "x": base64url(octets(x)), "y": base64url(octets(y))}

    @cached_property
    def kid(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public half."""
        return thumbprint(self.jwk)

    def private_jwk(self) -> dict[str, str]:
        """Both halves and the thumbprint, as a vector file shows a key."""
        return {**self.jwk, "d": base64url(octets(self.secret)), "kid": self.kid}

    def header(self, typ: str) -> dict[str, str]:
        """The protected header of an honest signature."""
        return {"alg": "ES256", "kid": self.kid, "typ": typ}

    def sign(self, payload: bytes, header: Mapping[str, Any] | bytes) -> str:
        """Compact JWS over ``payload`` with this header, whatever it claims."""
        head = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
        signed = f"{base64url(head)}.{base64url(payload)}"
        r, s = ecdsa(self.secret, signed.encode())
        return f"{signed}.{base64url(octets(r) + octets(s))}"

    def detach(self, payload: bytes, header: Mapping[str, Any] | bytes) -> str:
        """Detached JWS (RFC 7515 App. F): ``header..signature``."""
        head, _, signature = self.sign(payload, header).split(".")
        return f"{head}..{signature}"


def thumbprint(jwk: Mapping[str, str]) -> str:
    """RFC 7638 SHA-256 thumbprint of a public JWK."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return base64url(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def octets(number: int) -> bytes:
    """A coordinate, r or s at full width."""
    return number.to_bytes(WIDTH, "big")


def multiply(scalar: int) -> tuple[int, int]:
    """The point ``scalar`` times the generator."""
    numbers = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers()
    return numbers.x, numbers.y


def ecdsa(secret: int, message: bytes) -> tuple[int, int]:
    """Sign with P-256 and SHA-256 (FIPS 186-5 sec. 6.4), the nonce by RFC 6979 sec. 3.2."""
    hashed = int.from_bytes(hashlib.sha256(message).digest(), "big")
    nonce = _nonce(secret, hashed)
    r = multiply(nonce)[0] % ORDER
    return r, pow(nonce, -1, ORDER) * (hashed + r * secret) % ORDER


def _nonce(secret: int, hashed: int) -> int:
    value, key = b"\x01" * WIDTH, b"\x00" * WIDTH
    seed = octets(secret) + octets(hashed % ORDER)
    for mark in (b"\x00", b"\x01"):
        key = hmac.digest(key, value + mark + seed, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        if 1 <= (nonce := int.from_bytes(value, "big")) < ORDER:
            return nonce
        key = hmac.digest(key, value + b"\x00", "sha256")
        value = hmac.digest(key, value, "sha256")


def split(signature: str) -> tuple[str, int, int]:
    """Header segment, r and s of a detached or compact JWS."""
    head, _, last = signature.split(".")
    raw = base64.urlsafe_b64decode(last + "==")
    return head, int.from_bytes(raw[:WIDTH], "big"), int.from_bytes(raw[WIDTH:], "big")


def other_signature(signature: str) -> str:
    """The second valid signature that anybody can make of one: (r, n - s)."""
    head, r, s = split(signature)
    return f"{head}..{base64url(octets(r) + octets(ORDER - s))}"
