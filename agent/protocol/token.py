# SPDX-License-Identifier: Apache-2.0
"""A token: a reference that its person carries, sealed to the units of the site, as bytes for a QR code or an NFC card.

COSE_Sign1 over COSE_Encrypt0 (RFC 9052) in their canonical CBOR (RFC 8949 sec. 4.2): signed with ES256 by the unit at
which the person enrolled, which is the only place where the reference is known, and encrypted with AES-256-GCM under
the key that the site gives its units. Both structures bind the site's name as external data. The nonce is the token's
id: 12 random bytes, visible from outside, so that a revoked token is refused before it is opened.

Bytes that anybody may hold up are compared with one fixed layout, cut by it and verified; nothing of them reaches a
general decoder before the signature holds. The key ids have four bytes each and only choose a key.

The content is one CBOR array: end (seconds since 1970, UTC), subject (16), first bytes of the digests of the model and
of purpose and notice (8 each), of each unit's name (4 each), and 128 signed bytes of the reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey, decode_base64url
from agent.protocol.subject import SUBJECT_BYTES, SubjectId

MISSING = "cbor2 is missing: apt install python3-cbor2 (elsewhere pip install 'postern[token]')"
MAX_TOKEN_BYTES = 340  # a QR code of version 12 at level L holds 367
MIN_TOKEN_BYTES = 98  # the layout with nothing in it
TOKEN_KEY_BYTES = 32  # AES-256
ID_BYTES = 12  # SP 800-38D sec. 5.2.1.1: the nonce; 2**32 tokens of one key collide with a chance of 2**-33
TEMPLATE_BYTES = 128
DIGEST_BYTES = 8  # of model and notice: the issuer is trusted, nobody searches for a second one
UNIT_BYTES = 4
MAX_UNITS = 10  # what fits beside the rest
SIGNATURE_BYTES = 64
_KID_BYTES = 4
_NOBODY = "this is no token of Postern: show the code that the desk gave out"
# Of the two structures what never changes: array, protected header {1: -7, 4: kid}, empty unprotected header; and
# array, {1: 3, 4: kid}, {5: nonce}.
_SIGNED_HEAD, _SIGNED_REST = b"\x84", b"\xa0"
_SEALED_HEAD, _SEALED_REST = b"\x83", b"\xa1\x05\x4c"
_ES256, _A256GCM = b"\xa2\x01\x26\x04\x44", b"\xa2\x01\x03\x04\x44"


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """What a token says; ``template`` are 128 bytes, a signed number each. ``units`` are ``unit_mark`` of names."""

    subject: SubjectId
    expires_at: datetime
    model: bytes
    terms: bytes
    units: tuple[bytes, ...]
    template: bytes


class Outside(NamedTuple):
    """What everybody can read of a token, before any of it is believed."""

    issuer: bytes
    key: bytes
    token_id: bytes
    signed: bytes  # the COSE_Encrypt0
    ciphertext: bytes
    signature: bytes


def model_mark(model: str) -> bytes:
    """First bytes of a model's digest (``sha256:…``)."""
    return bytes.fromhex(model.removeprefix("sha256:"))[:DIGEST_BYTES]


def terms_mark(purpose: str, notice_version: str) -> bytes:
    """First bytes of the digest of what the person agreed to: the purpose, and which notice they read."""
    text = " ".join(purpose.split()).encode()
    return hashlib.sha256(b"postern/token-terms/v1" + _counted(text, notice_version.encode())).digest()[:DIGEST_BYTES]


def unit_mark(unit: str) -> bytes:
    """First bytes of the digest of a unit's name."""
    return hashlib.sha256(b"postern/token-unit/v1" + unit.encode()).digest()[:UNIT_BYTES]


def key_mark(key: bytes) -> bytes:
    """By which a token names the key that it is sealed with."""
    return hashlib.sha256(b"postern/token-key/v1" + key).digest()[:_KID_BYTES]


def cbor() -> ModuleType:
    """The library ``cbor2``, an optional extra. Raises RefusedError where it is not installed."""
    try:
        import cbor2  # noqa: PLC0415 - a unit that takes no tokens needs none
    except ImportError as error:
        raise RefusedError(MISSING) from error
    return cbor2


def issuer_mark(key: PublicKey) -> bytes:
    """By which a token names the key that it is signed with: the first bytes of its thumbprint."""
    return decode_base64url(key.kid)[:_KID_BYTES]


def make_token(content: Content, *, token_id: bytes, key: bytes, issuer: SigningKey, site: str) -> bytes:
    """Seal and sign. Raises RefusedError where it would not fit into a code."""
    dumps = cbor().dumps
    if not 1 <= len(content.units) <= MAX_UNITS:
        raise RefusedError(f"a token is for 1 to {MAX_UNITS} units: name those that it shall open")
    plain = dumps(
        [
            int(content.expires_at.timestamp()),
            content.subject,
            content.model,
            content.terms,
            b"".join(content.units),
            content.template,
        ]
    )
    protected = _A256GCM + key_mark(key)
    ciphertext = AESGCM(key).encrypt(token_id, plain, dumps(["Encrypt0", protected, site.encode()]))
    sealed = dumps([protected, {5: token_id}, ciphertext])
    signed_by = _ES256 + issuer_mark(issuer.public)
    signature = issuer.sign_bytes(dumps(["Signature1", signed_by, site.encode(), sealed]))
    token: bytes = dumps([signed_by, {}, sealed, signature])
    return token


def look_at(data: bytes) -> Outside:
    """Cut a token into its parts; VerificationError (``no_token``) for everything that has not the one layout."""
    if not MIN_TOKEN_BYTES <= len(data) <= MAX_TOKEN_BYTES:
        raise VerificationError("no_token", _NOBODY)
    rest = _Cut(data)
    rest.take(_SIGNED_HEAD + b"\x49" + _ES256)
    issuer = rest.give(_KID_BYTES)
    rest.take(_SIGNED_REST)
    sealed = rest.text()
    rest.take(b"\x58\x40")
    signature = rest.give(SIGNATURE_BYTES)
    rest.end()
    rest = _Cut(sealed)
    rest.take(_SEALED_HEAD + b"\x49" + _A256GCM)
    key = rest.give(_KID_BYTES)
    rest.take(_SEALED_REST)
    token_id = rest.give(ID_BYTES)
    ciphertext = rest.text()
    rest.end()
    return Outside(issuer, key, token_id, sealed, ciphertext, signature)


def check_signature(outside: Outside, issuers: Iterable[PublicKey], *, site: str) -> None:
    """Raise VerificationError unless one of ``issuers`` signed it: ``unknown_issuer``, ``damaged``."""
    dumps = cbor().dumps
    named = [key for key in issuers if issuer_mark(key) == outside.issuer]
    if not named:
        raise VerificationError(
            "unknown_issuer",
            "the token is of another site, or of a unit that may not issue any: ask this site's desk for a new one",
        )
    message = dumps(["Signature1", _ES256 + outside.issuer, site.encode(), outside.signed])
    if not any(key.verifies(message, outside.signature) for key in named):
        raise VerificationError("damaged", "the token is damaged or forged: ask the desk for a new one")


def check_key(outside: Outside, key: bytes) -> None:
    """Raise VerificationError ``replaced_key`` unless the token is sealed with ``key``."""
    if key_mark(key) != outside.key:
        raise VerificationError(
            "replaced_key", "the site has replaced the key of this token: ask the desk for a new one"
        )


def open_content(outside: Outside, key: bytes, *, site: str) -> Content:
    """Open a token whose signature holds. Raises VerificationError: ``replaced_key``, ``damaged``."""
    cbor2 = cbor()
    check_key(outside, key)
    try:
        bound = cbor2.dumps(["Encrypt0", _A256GCM + outside.key, site.encode()])
        members = cbor2.loads(AESGCM(key).decrypt(outside.token_id, outside.ciphertext, bound))
        return _content(members)
    except (InvalidTag, cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, OSError):
        raise VerificationError("damaged", "the token is damaged or forged: ask the desk for a new one") from None


def _content(members: object) -> Content:
    match members:
        case [int(end), bytes(subject), bytes(model), bytes(terms), bytes(units), bytes(template)]:
            sizes = (len(subject), len(model), len(terms), len(template))
        case _:
            raise ValueError("not the content of a token")
    if sizes != (SUBJECT_BYTES, DIGEST_BYTES, DIGEST_BYTES, TEMPLATE_BYTES) or len(units) % UNIT_BYTES:
        raise ValueError("not the content of a token")
    marks = tuple(units[at : at + UNIT_BYTES] for at in range(0, len(units), UNIT_BYTES))
    return Content(SubjectId(subject), datetime.fromtimestamp(end, UTC), model, terms, marks, template)


class _Cut:
    """Takes bytes from the front; everything that does not fit is no token."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def give(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise VerificationError("no_token", _NOBODY)
        self._at += count
        return part

    def take(self, expected: bytes) -> None:
        if self.give(len(expected)) != expected:
            raise VerificationError("no_token", _NOBODY)

    def text(self) -> bytes:
        """A byte string in its shortest spelling."""
        head = self.give(1)
        if head == b"\x58" and (count := self.give(1)[0]) >= 24:
            return self.give(count)
        if head == b"\x59" and (count := int.from_bytes(self.give(2), "big")) > 0xFF:
            return self.give(count)
        raise VerificationError("no_token", _NOBODY)

    def end(self) -> None:
        if self._at != len(self._data):
            raise VerificationError("no_token", _NOBODY)


def _counted(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
