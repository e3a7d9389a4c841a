# SPDX-License-Identifier: Apache-2.0
"""What a unit answers to a command, under its signature, and how whoever asked tells the answer from anything else.

An answer names the command by the digest of its exact bytes, so that it answers that one alone. ``number`` rises with
each answer to one command: what comes a second time, or late, is not taken. An answer without a signature is none.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.errors import VerificationError
from agent.keys import SigningKey, check_algorithm, read_header
from agent.parse.strict_json import StrictJsonError, decode, loads
from agent.protocol.command import Nonce
from agent.protocol.names import Digest, Name, Sequence
from agent.protocol.trust import TrustedKey, TrustedUnits

RESPONSE_TYPE = "postern-response+jws"
MAX_RESPONSE_BYTES = 16 * 1024  # signed; a gallery status of 64 subjects has 4 000; a small broker's limit


class Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What came of a command; ``transaction`` is None when no signature vouched for one.

    ``next_seq`` stands in the refusal of a number that is not known to have been taken: the lowest one that would be.
    """

    status: Literal["ok", "error"]
    transaction: str | None
    error: str | None = None
    message: str | None = None
    nonce: Nonce | None = None
    next_seq: Sequence | None = None
    data: dict[str, Any] | None = None


class SignedResponse(Response, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the unit signs: the outcome, who says so, and to which command. ``command`` is of the bytes received."""

    site: Name
    unit: Name
    verb: Annotated[str, Meta(max_length=32)]
    command: Digest
    number: Sequence


class Asked(msgspec.Struct, frozen=True):
    """One command that was sent: what its answers must name."""

    site: str
    unit: str
    verb: str
    transaction: str
    command: str


def command_digest(payload: bytes) -> str:
    """Digest by which an answer names the command that came as ``payload``."""
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def sign_response(response: SignedResponse, key: SigningKey) -> bytes:
    """Write and sign an answer; one that nobody could read or that is too long says so instead of its ``data``."""
    try:
        content = msgspec.json.encode(response)
        loads(content, limit=len(content))  # a number with a fraction, say
        token = key.sign(content, typ=RESPONSE_TYPE).encode()
    except (TypeError, ValueError, RecursionError):
        return _sign_failure(response, key, "fault", "the answer cannot be encoded: report this")
    if len(token) > MAX_RESPONSE_BYTES:
        return _sign_failure(
            response, key, "too_large", f"done, but the answer is longer than {MAX_RESPONSE_BYTES} bytes"
        )
    return token


def _sign_failure(response: SignedResponse, key: SigningKey, error: str, message: str) -> bytes:
    told = msgspec.structs.replace(response, status="error", error=error, message=message, nonce=None, data=None)
    return key.sign(msgspec.json.encode(told), typ=RESPONSE_TYPE).encode()


def read_response(payload: bytes, asked: Asked, trusted: TrustedUnits, *, above: int = 0) -> SignedResponse:
    """Answer to ``asked``, with a number ``above`` those that were taken, by the unit's present key in ``trusted``.

    Raises VerificationError: ``unsigned`` for what a unit says that does not sign its answers yet; ``malformed``; as
    ``check_algorithm`` and ``PublicKey.verify``; ``unknown_key``, ``wrong_unit``, ``revoked`` for the key;
    ``wrong_site``, ``wrong_unit``, ``wrong_verb``, ``another`` for an answer to somebody else; ``replayed``.
    """
    if len(payload) > MAX_RESPONSE_BYTES:
        raise VerificationError("malformed", f"an answer has at most {MAX_RESPONSE_BYTES} bytes")
    try:
        token = payload.decode("ascii")
        header = read_header(token)
    except (UnicodeDecodeError, VerificationError):
        raise _no_answer(payload, asked) from None
    check_algorithm(header)
    content = _key_of(header.kid, asked, trusted).key.verify(token, typ=RESPONSE_TYPE)
    try:
        answer = decode(content, SignedResponse, MAX_RESPONSE_BYTES)
    except StrictJsonError:
        raise VerificationError("malformed", "the unit signed what is no answer") from None
    _check_place(answer, asked)
    if answer.number <= above:
        raise VerificationError("replayed", "the answer came before, or later ones did")
    return answer


def _key_of(kid: str, asked: Asked, trusted: TrustedUnits) -> TrustedKey:
    """A replaced key does not count, though events by it still do: they may wait, an answer never does."""
    key = trusted.find(kid)
    if key is None or trusted.site != asked.site:
        raise VerificationError("unknown_key", "the answer was signed by a key that is not in the site's list of units")
    if key.unit != asked.unit:
        raise VerificationError("wrong_unit", "the answer was signed by another unit")
    if key.revoked or key.until is not None:
        raise VerificationError("revoked", "the answer was signed by a key of the unit that was revoked or replaced")
    return key


def _check_place(answer: SignedResponse, asked: Asked) -> None:
    if answer.site != asked.site:
        raise VerificationError("wrong_site", "the answer is about another site")
    if answer.unit != asked.unit:
        raise VerificationError("wrong_unit", "the answer is about another unit")
    if answer.verb != asked.verb:
        raise VerificationError("wrong_verb", "the answer is about another verb")
    if answer.command != asked.command or answer.transaction not in (asked.transaction, None):
        raise VerificationError("another", "the answer is to another command")
    if (answer.status == "error") == (answer.error is None) or (answer.status == "ok" and answer.transaction is None):
        raise VerificationError("malformed", "the answer says neither that it was done nor why not")


def _no_answer(payload: bytes, asked: Asked) -> VerificationError:
    """What is no signed object: the answer of a unit that does not sign yet, or nothing at all."""
    try:
        plain = decode(payload, Response, MAX_RESPONSE_BYTES)
    except StrictJsonError:
        return VerificationError("malformed", "this is no answer")
    if plain.transaction not in (asked.transaction, None):
        return VerificationError("another", "this is for somebody else, and unsigned")
    return VerificationError("unsigned", "the answer has no signature")
