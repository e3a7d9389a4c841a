# SPDX-License-Identifier: Apache-2.0
"""Which units may issue tokens, and which tokens count no more: one list of the site, signed, numbered, with an end.

A unit without a list in force takes no token, so whoever withholds a newer one gains days, not more. Tokens are
revoked by their id, people who withdrew their consent by the first half of the digest that stands for them. An entry
goes when no token that it is about can be valid any more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.names import Name, Time, parse_time
from agent.protocol.record import Record, decode, encode
from agent.protocol.subject import SubjectId, subject_digest

TOKEN_LIST_TYPE = "postern-token-list+jws"  # noqa: S105 - the name of a kind of document
MAX_ISSUER_KEYS = 6  # desks, with a replaced key or two
MAX_REVOKED = 200  # tokens and people together: with it the list fits into one signed command
MAX_LIST_BYTES = 12 * 1024
MAX_LIST_DAYS = 31  # what was withheld counts again after a month at the latest
MAX_TOKEN_DAYS = 366  # so long an entry has to stay

TokenId = Annotated[str, Meta(pattern=r"^[0-9a-f]{24}$(?!\n)")]
SubjectMark = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]


class TokenList(Record, frozen=True):
    """What the site signs."""

    version: Literal[1]
    site: Name
    serial: Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
    issued_at: Time
    expires_at: Time
    issuers: Annotated[tuple[dict[str, str], ...], Meta(max_length=MAX_ISSUER_KEYS)]
    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_REVOKED)] = ()
    subjects: Annotated[tuple[SubjectMark, ...], Meta(max_length=MAX_REVOKED)] = ()

    def sign(self, key: SigningKey) -> str:
        """Sign as a compact JWS; RefusedError when no unit could read it."""
        token = key.sign(encode(self), typ=TOKEN_LIST_TYPE)
        if len(token) > MAX_LIST_BYTES:
            raise RefusedError(
                f"more than {MAX_REVOKED} tokens are revoked: replace the key of all with 'postern site"
                " rotate-epoch-keys', and issue those anew that still count"
            )
        return token

    def issuer_keys(self) -> tuple[PublicKey, ...]:
        return tuple(PublicKey.from_jwk(jwk) for jwk in self.issuers)

    def is_in_force(self, now: datetime) -> bool:
        return now < parse_time(self.expires_at)


def subject_mark(subject: SubjectId) -> str:
    """By which the list names somebody who withdrew their consent."""
    return subject_digest(subject).removeprefix("sha256:")[:32]


def read_token_list(token: str, key: PublicKey, *, site: str) -> TokenList:
    """Read a list that the site's ``key`` signed.

    Raises VerificationError: ``malformed``, ``wrong_site``, or as ``PublicKey.verify``; KeyStoreError for a bad key.
    """
    if len(token) > MAX_LIST_BYTES:
        raise VerificationError("malformed", "this is no list of tokens: copy it from the site again")
    try:
        listed = decode(key.verify(token, typ=TOKEN_LIST_TYPE), TokenList)
        parse_time(listed.expires_at)
    except ValueError:
        raise VerificationError("malformed", "the list of tokens is not readable: copy it again") from None
    if listed.site != site:
        raise VerificationError("wrong_site", f"the list of tokens is of site {listed.site}: copy that of {site}")
    listed.issuer_keys()
    return listed
