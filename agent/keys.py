# SPDX-License-Identifier: Apache-2.0
"""Signing keys: ECDSA P-256 (ES256), kept as PKCS#8, named by their RFC 7638 thumbprint.

``UnitKey`` signs what a unit says, ``SigningKey`` what the site says. Signatures are JWS (RFC 7515),
detached (Appendix F) or compact, with exactly the header members ``alg``, ``kid`` and ``typ``; ``typ``
keeps a signature made for one purpose from being used for another (RFC 8725 sec. 3.11).

Where the library can (cryptography 43 on OpenSSL 3.2), signatures are deterministic (RFC 6979): none then depends on
how random a small board is right after power-on, and the same events of the same key have the same bytes.
"""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from agent.disk.files import MAX_SECRET_BYTES, read_brought, read_secret, write_atomic
from agent.errors import KeyStoreError, VerificationError
from agent.parse import strict_json

if TYPE_CHECKING:  # Debian 12 has cryptography 38, which calls it otherwise
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ALGORITHM = "ES256"
CURVE = "P-256"
MAX_HEADER_BYTES = 512  # alg, kid (43 characters) and typ need about 100
MAX_TOKEN_BYTES = 1024 * 1024  # a list of 4 000 units; the largest object that anyone signs here
DERIVED_KEY_BYTES = 32
KNOWN_HEADERS = 1024  # a unit's is always the same; the least recently used, of at most 2 kB, makes room
COORDINATE_BYTES = 32  # r and s of an ES256 signature (RFC 7518 sec. 3.4)


class _Jwk(msgspec.Struct, frozen=True):
    """What is read of a public JWK; its other members (use, kid, alg) bind nothing here."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]  # 32 bytes each (RFC 7518 sec. 6.2.1)
    y: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]


class Header(NamedTuple):
    """The protected header of a signature, read but not yet believed."""

    alg: str
    kid: str
    typ: str


def encode_base64url(content: bytes) -> str:
    """Base64url without padding (RFC 7515 sec. 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """Inverse of ``encode_base64url``; one spelling only, ValueError otherwise."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise ValueError("not base64url") from None
    if encode_base64url(content) != text:
        raise ValueError("not the canonical base64url spelling")
    return content


def read_header(signature: str) -> Header:
    """Header of a compact or detached JWS.

    Raises VerificationError (``malformed``) unless it holds ``alg``, ``kid`` and ``typ`` as text and nothing else:
    ``crit``, ``jku``, ``jwk`` and ``x5c`` would let the sender choose how it is checked.
    """
    return _read_header(signature.partition(".")[0])


@functools.lru_cache(KNOWN_HEADERS)
def _read_header(segment: str) -> Header:
    try:
        members = strict_json.loads(decode_base64url(segment), limit=MAX_HEADER_BYTES)
    except ValueError:
        raise VerificationError("malformed", "the header of the signature is not readable") from None
    if not isinstance(members, dict) or set(members) != {"alg", "kid", "typ"}:
        raise VerificationError("malformed", "the header of the signature must hold alg, kid and typ alone")
    if not all(isinstance(value, str) for value in members.values()):
        raise VerificationError("malformed", "the header of the signature must hold text")
    return Header(members["alg"], members["kid"], members["typ"])


def check_algorithm(header: Header) -> None:
    """Refuse a signature by anything but ES256: ``unsecured`` for one that claims to need none, ``wrong_algorithm``."""
    if header.alg == "none":  # an Unsecured JWS (RFC 7518 sec. 3.6)
        raise VerificationError("unsecured", "the content claims to need no signature")
    if header.alg != ALGORITHM:
        raise VerificationError("wrong_algorithm", f"the signature must be made with {ALGORITHM}")


class PublicKey:
    """A P-256 key that verifies; ``kid`` is its RFC 7638 SHA-256 thumbprint."""

    __slots__ = ("_jwk", "_point", "kid")

    def __init__(self, key: ECKey) -> None:
        self._jwk = {name: str(value) for name, value in key.as_dict(private=False).items()}
        self._point = key.public_key
        self.kid: str = key.thumbprint()

    @classmethod
    def from_jwk(cls, jwk: object) -> Self:
        """Read a public JWK (RFC 7517); KeyStoreError unless it is a point on P-256."""
        try:
            numbers = strict_json.convert(jwk, _Jwk)
            x, y = (int.from_bytes(decode_base64url(text), "big") for text in (numbers.x, numbers.y))
            ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
            return cls(ECKey.import_key({"kty": "EC", "crv": CURVE, "x": numbers.x, "y": numbers.y}))
        except (JoseError, ValueError) as error:
            raise KeyStoreError("this is not the public JWK of a P-256 key: export it again") from error

    def jwk(self) -> dict[str, str]:
        return {name: self._jwk[name] for name in ("kty", "crv", "x", "y")}

    def verify(self, token: str, *, typ: str) -> bytes:
        """Payload of a compact JWS made by this key for ``typ``.

        Raises VerificationError: ``malformed``, ``unsecured``, ``wrong_algorithm``, ``wrong_type``, ``wrong_key``,
        ``unsigned``, ``bad_signature``.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise VerificationError("malformed", f"the signed object is longer than {MAX_TOKEN_BYTES} bytes")
        parts = token.split(".")
        try:
            _, payload, _ = parts
            content = decode_base64url(payload)
        except ValueError:
            raise VerificationError("malformed", "the signed object is not a compact JWS") from None
        self._check(read_header(token), typ, f"{parts[0]}.{payload}".encode("ascii"), parts[2])
        return content

    def verify_detached(self, signature: str, payload: bytes, *, typ: str) -> None:
        """Check a detached JWS (``header..signature``) of this key over ``payload``; raises as ``verify`` does."""
        parts = signature.split(".")
        if len(parts) != 3 or parts[1]:
            raise VerificationError("malformed", "the signature is not a detached JWS")
        self._check(read_header(signature), typ, f"{parts[0]}.{encode_base64url(payload)}".encode("ascii"), parts[2])

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature``, the bytes r and s of ES256, is this key's for ``message`` (RFC 9053 sec. 2.1).

        ``message`` has to say by itself what it was signed for, as the structures of COSE do.
        """
        try:
            self._point.verify(_in_asn1(signature), message, _VERIFICATION)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _check(self, header: Header, typ: str, signed: bytes, signature: str) -> None:
        check_algorithm(header)
        if header.typ != typ:
            raise VerificationError("wrong_type", f"the signature was not made for {typ}")
        if header.kid != self.kid:
            raise VerificationError("wrong_key", "the signature was made by another key")
        if not signature:
            raise VerificationError("unsigned", "the signature was taken away")
        try:
            self._point.verify(_in_asn1(decode_base64url(signature)), signed, _VERIFICATION)
        except (InvalidSignature, ValueError):
            raise VerificationError("bad_signature", "the signature does not fit the content") from None


class SigningKey:
    """A P-256 private key. It has no printable form; only ``save`` writes it."""

    __slots__ = ("_private", "public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._private = private
        self.public = PublicKey(ECKey.import_key(pem))

    @classmethod
    def generate(cls) -> Self:
        """Make a new key from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> Self:
        """Read a PKCS#8 PEM file that its owner alone can read; KeyStoreError says what to do otherwise."""
        return cls(load_private_key(path, passphrase))

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write the key durably with mode 0600, encrypted when a passphrase is given."""
        save_private_key(self._private, path, passphrase)

    @property
    def kid(self) -> str:
        """RFC 7638 thumbprint of the public half."""
        return self.public.kid

    def public_jwk(self) -> dict[str, str]:
        return self.public.jwk()

    def sign(self, payload: bytes, *, typ: str) -> str:
        """Compact JWS over ``payload``."""
        header = json.dumps({"alg": ALGORITHM, "kid": self.kid, "typ": typ}, separators=(",", ":"))
        signed = f"{encode_base64url(header.encode())}.{encode_base64url(payload)}"
        return f"{signed}.{encode_base64url(self.sign_bytes(signed.encode('ascii')))}"

    def sign_bytes(self, message: bytes) -> bytes:
        """ES256 of ``message`` as the bytes r and s; see ``PublicKey.verifies``."""
        r, s = decode_dss_signature(self._private.sign(message, _SIGNATURE))
        return b"".join(number.to_bytes(COORDINATE_BYTES, "big") for number in (r, s))

    def sign_detached(self, payload: bytes, *, typ: str) -> str:
        """Detached JWS over ``payload`` (RFC 7515 App. F): ``header..signature``."""
        header, _, signature = self.sign(payload, typ=typ).split(".")
        return f"{header}..{signature}"

    def derive(self, label: bytes) -> bytes:
        """32 secret bytes for one purpose, by HKDF-SHA-256 (RFC 5869) with ``label`` as info."""
        scalar = self._private.private_numbers().private_value.to_bytes(32, "big")
        return HKDF(algorithm=hashes.SHA256(), length=DERIVED_KEY_BYTES, salt=None, info=label).derive(scalar)


def _in_asn1(signature: bytes) -> bytes:
    """An ES256 signature as the library wants it; ValueError for another length."""
    if len(signature) != 2 * COORDINATE_BYTES:
        raise ValueError("not r and s of 32 bytes each")
    r, s = signature[:COORDINATE_BYTES], signature[COORDINATE_BYTES:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _ecdsa() -> ec.ECDSA:
    try:
        return ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    except (TypeError, UnsupportedAlgorithm):  # an older cryptography, or its OpenSSL
        return ec.ECDSA(hashes.SHA256())


_SIGNATURE, _VERIFICATION = _ecdsa(), ec.ECDSA(hashes.SHA256())
DETERMINISTIC = bool(getattr(_SIGNATURE, "deterministic_signing", False))  # same key and bytes, same signature


class UnitKey(SigningKey):
    """The key by which a unit signs its events, health and receipts."""

    __slots__ = ()


def load_public_key(path: Path) -> PublicKey:
    """Read a public JWK file, such as ``site.jwk``; KeyStoreError when it is missing or no P-256 key."""
    content = read_brought(path)
    try:
        return PublicKey.from_jwk(strict_json.loads(content, limit=MAX_SECRET_BYTES))
    except (KeyStoreError, strict_json.StrictJsonError):
        raise KeyStoreError(f"{path} is not the public JWK of a P-256 key: copy it from the site again") from None


def load_pem(path: Path, passphrase: bytes | None = None) -> PrivateKeyTypes:
    """Read a private key of any kind from a PKCS#8 PEM file of mode 0600; KeyStoreError says what to do otherwise."""
    try:
        return serialization.load_pem_private_key(read_secret(path), passphrase)
    except TypeError:
        advice = "remove the passphrase" if passphrase else "give its passphrase"
        raise KeyStoreError(f"{path} does not open: {advice}") from None
    except ValueError:
        advice = "check the passphrase" if passphrase else "restore the file from its origin"
        raise KeyStoreError(f"{path} is not a readable private key: {advice}") from None


def load_private_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 private key from a PKCS#8 PEM file of mode 0600."""
    key = load_pem(path, passphrase)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyStoreError(f"{path} is not a P-256 key: create it with the site kit")
    return key


def save_private_key(key: ec.EllipticCurvePrivateKey, path: Path, passphrase: bytes | None = None) -> None:
    """Write a private key as PKCS#8 PEM, mode 0600, durably."""
    write_atomic(path, private_pem(key, passphrase))


def private_pem(key: PrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """Encode a private key as PKCS#8 PEM, encrypted when a passphrase is given; ValueError for an empty one."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
