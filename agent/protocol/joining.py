# SPDX-License-Identifier: Apache-2.0
"""What travels between a site and a unit that joins it, and how each proves that it holds the token."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Annotated, Literal

import msgspec
import rfc8785
from msgspec import Meta

from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, decode_base64url, encode_base64url, read_header
from agent.protocol.grant import SEPARATOR
from agent.protocol.names import Digest, Name
from agent.protocol.record import R, Record, decode

Pem = Annotated[str, Meta(max_length=8192)]
Base64url = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]  # 32 bytes


class UnitRequest(Record, frozen=True):
    """What a unit asks: signed by its new event key, with a proof that it holds the token."""

    version: Literal[1]
    site: Name
    unit: Name
    jwk: dict[str, str]
    seal_jwk: dict[str, str]
    csr: Pem
    proof: Base64url | None = None


class UnitAnswer(Record, frozen=True):
    """What the site answers: signed by the site; the first answer also proves that the site holds the token."""

    version: Literal[1]
    site: Name
    unit: Name
    tls_crt: Pem
    ca_crt: Pem
    site_jwk: dict[str, str]
    epoch_keys: Annotated[str, Meta(max_length=32 * 1024)]
    revoked_brokers: Annotated[str, Meta(max_length=16 * 1024)] | None = None  # there is none until one was revoked
    proof: Base64url | None = None


class JoinReply(Record, frozen=True):
    """What the site's service says to a unit that asks to join, over the broker.

    ``answer`` and ``policy`` are signed, and ``proof`` is of the claim: they belong together, and the policy is the
    site's newest. ``reason`` and ``message`` say why somebody has to wait or is refused. ``refused`` is for good, and
    ends the asking where it is proven; whoever has no proof (a broker, a site that does not know the claim) only tells.
    """

    version: Literal[1]
    state: Literal["joined", "waiting", "refused"]
    request: Digest  # of the request that this is about
    answer: Annotated[str, Meta(max_length=32 * 1024)] | None = None
    policy: Annotated[str, Meta(max_length=16 * 1024)] | None = None
    reason: Annotated[str, Meta(max_length=64)] | None = None
    message: Annotated[str, Meta(max_length=512)] | None = None
    proof: Base64url | None = None


def request_digest(request: bytes) -> str:
    """Name a request."""
    return "sha256:" + hashlib.sha256(request).hexdigest()


def seal_members(first: PublicKey, following: PublicKey) -> dict[str, str]:
    """Two seal keys as one JWK: that of the answer and, as further members, that of the issue after it.

    RFC 7517 sec. 4: members that are not understood are ignored, as a site of release 0.1 does.
    """
    after = following.jwk()
    return {**first.jwk(), "next_x": after["x"], "next_y": after["y"]}


def following_seal_key(seal_jwk: dict[str, str]) -> dict[str, str] | None:
    """The second key of ``seal_members``; None for a unit of release 0.1. KeyStoreError when it is no P-256 key."""
    if "next_x" not in seal_jwk:
        return None
    members = {"kty": "EC", "crv": "P-256", "x": seal_jwk["next_x"], "y": seal_jwk.get("next_y")}
    return PublicKey.from_jwk(members).jwk()


REQUEST_TYPE = "postern-unit-request+jws"
ANSWER_TYPE = "postern-unit-answer+jws"
_BELONGS = {
    REQUEST_TYPE: (UnitRequest, "a unit's request: 'postern site add-unit' at the site answers it"),
    ANSWER_TYPE: (UnitAnswer, "a site's answer: 'postern unit install' at the unit takes it"),
}
TOKEN_BYTES = 16  # 128 bit: nobody guesses it, and 26 letters can still be typed
_TOKEN_LABEL = b"postern/token/v1"


def spell_token(secret: bytes) -> str:
    """Write a token for people: lower-case base32 in groups of four."""
    text = base64.b32encode(secret).decode("ascii").rstrip("=").lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def token_key(token: str) -> bytes:
    """Turn a token as typed into the key of the proofs; RefusedError when it is none."""
    text = "".join(token.split()).replace("-", "").upper()
    try:
        secret = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:  # binascii.Error is one; letters that are not ASCII are another
        secret = b""
    if len(secret) != TOKEN_BYTES:
        raise RefusedError("this is not an enrolment token: copy all of its letters as the site showed them")
    return hashlib.sha256(_TOKEN_LABEL + secret).digest()


def prove(key: bytes, record: UnitRequest | UnitAnswer | JoinReply) -> str:
    """Prove that ``key`` is held and that ``record`` is meant, by an HMAC over its canonical JSON without ``proof``."""
    members = msgspec.to_builtins(msgspec.structs.replace(record, proof=None))
    return encode_base64url(hmac.digest(key, type(record).__name__.encode() + rfc8785.dumps(members), "sha256"))


def is_proof(key: bytes, record: UnitRequest | UnitAnswer | JoinReply) -> bool:
    """Check a proof in constant time."""
    return record.proof is not None and hmac.compare_digest(record.proof, prove(key, record))


def unverified(token: str, kind: type[R]) -> R:
    """Read the payload of a compact JWS, with or without a grant before it, while its key is not known.

    VerificationError (``malformed``) when it is none, or the other one of the two that travel.
    """
    try:
        _, payload, _ = token.rpartition(SEPARATOR)[2].split(".")
        return decode(decode_base64url(payload), kind)
    except ValueError:
        raise VerificationError("malformed", f"this file is {_instead_of(kind, token)}") from None


def _instead_of(wanted: type[Record], token: str) -> str:
    """What was brought, and where it belongs."""
    try:
        kind, belongs = _BELONGS[read_header(token.rpartition(SEPARATOR)[2]).typ]
    except (VerificationError, KeyError):
        kind, belongs = wanted, ""
    return "not readable: copy it again" if kind is wanted else belongs
