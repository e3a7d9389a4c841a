# SPDX-License-Identifier: Apache-2.0
"""The right of a program to ask units for something, given by the site: a statement signed by the site's key.

A program that listens must be able to ask for what it missed, and must not hold the key that commands units. It has a
key of its own; the site signs which one, whose, and for which verbs. What it sends is ``grant~command``: two compact
JWS, the grant by the site's key and the command by the program's. A unit needs to know nothing beforehand.

The site's service (``agent.site.service``) has a grant with a number, its mandate. It may send renewals and settings,
and sign some documents in the site's stead, each written ``grant~document``: answers to units that join, epoch keys,
settings, the list of units. It can sign no other command, no policy, no change of the site's key. Where its key was
stolen, the site gives another mandate with a higher number; who has seen that believes the former no more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

from agent.errors import KeyStoreError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey, SigningKey
from agent.parse.strict_json import MAX_SAFE_INTEGER, StrictJsonError, decode
from agent.protocol.command import CONFIGURE, RENEW
from agent.protocol.names import Name, Seconds

GRANT_TYPE = "postern-grant+jws"
SEPARATOR = "~"  # in neither part: base64url and dots
MAX_GRANT_BYTES = 2048  # one has about 700
GRANT_DAYS = 400  # as long as the certificate that is issued with it
ASKING = ("outbox/replay",)  # verbs that change nothing and tell nothing that the program may not hear anyway
GRANTABLE = (*ASKING, RENEW, CONFIGURE)  # all that any program may be granted; what these two bring is signed besides
SIGNS_ANSWERS, SIGNS_EPOCH_KEYS, SIGNS_TRUST = "sign/answer", "sign/epoch-keys", "sign/trust"
SIGNS_CONFIGURATION = "sign/configuration"
MANDATE = (RENEW, CONFIGURE, SIGNS_ANSWERS, SIGNS_EPOCH_KEYS, SIGNS_TRUST, SIGNS_CONFIGURATION)


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """``program`` may ask every unit of ``site`` for ``verbs``, by the key ``jwk``, until ``expires_at``.

    ``number`` is that of a mandate, 0 of any other grant: it rises, and the highest one seen counts.
    """

    version: Literal[1]
    site: Name
    program: Name
    verbs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    jwk: dict[str, str]
    expires_at: Seconds  # since 1970, UTC
    number: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0


class Signer(Protocol):
    """What signs for a site: its key, or its service's with the mandate."""

    def sign(self, payload: bytes, *, typ: str) -> str: ...


class MandatedKey(msgspec.Struct, frozen=True):
    """The service's key; what it signs begins with its mandate."""

    key: SigningKey
    mandate: str

    def sign(self, payload: bytes, *, typ: str) -> str:
        """``mandate~document``."""
        return f"{self.mandate}{SEPARATOR}{self.key.sign(payload, typ=typ)}"


def make_grant(program: str, key: SigningKey, site_key: SigningKey, *, site: str, now: datetime) -> str:
    """Let ``program`` ask for what it missed; a compact JWS by the site's key."""
    return _make(program, key, site_key, site=site, now=now, verbs=ASKING, number=0)


def make_mandate(program: str, key: SigningKey, site_key: SigningKey, *, site: str, now: datetime, number: int) -> str:
    """Let the site's service renew and sign what ``MANDATE`` names; a compact JWS by the site's key."""
    return _make(program, key, site_key, site=site, now=now, verbs=MANDATE, number=number)


def _make(
    program: str,
    key: SigningKey,
    site_key: SigningKey,
    *,
    site: str,
    now: datetime,
    verbs: tuple[str, ...],
    number: int,
) -> str:
    expires_at = int((now + timedelta(days=GRANT_DAYS)).timestamp())
    grant = Grant(
        version=1,
        site=site,
        program=program,
        verbs=verbs,
        jwk=key.public_jwk(),
        expires_at=expires_at,
        number=number,
    )
    return site_key.sign(msgspec.json.encode(grant), typ=GRANT_TYPE)


def verify_document(
    token: str,
    site_key: PublicKey,
    *,
    typ: str,
    power: str,
    site: str | None,
    now: datetime | None,
    on_mandate: Callable[[int], None],
) -> bytes:
    """What the site signed itself, or its service with a mandate for ``power``.

    ``on_mandate`` is given the mandate's number once all signatures were verified, and raises where a higher one was
    seen (``check_number``). ``now`` is None while the time is not known, ``site`` where the document names it. Raises
    VerificationError as ``PublicKey.verify`` and ``read_grant``, and ``not_granted``, ``grant_expired``.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise VerificationError("malformed", f"the signed object is longer than {MAX_TOKEN_BYTES} bytes")
    given, separator, document = token.partition(SEPARATOR)
    if not separator:
        return site_key.verify(token, typ=typ)
    grant, key = read_grant(given, site_key, site=site)
    if power not in grant.verbs or not grant.number:
        raise VerificationError("not_granted", "the site did not let this program sign such a document")
    if now is not None and now.timestamp() > grant.expires_at:
        raise VerificationError("grant_expired", "the mandate of the site's service has ended: delegate anew")
    content = key.verify(document, typ=typ)
    on_mandate(grant.number)
    return content


def check_number(number: int, highest: int) -> None:
    """Refuse a mandate that was replaced: VerificationError ``superseded``."""
    if 0 < number < highest:
        raise VerificationError("superseded", "the site gave its service a newer mandate: this one counts no more")


def read_grant(token: str, site_key: PublicKey, *, site: str | None) -> tuple[Grant, PublicKey]:
    """The grant, and the key that it speaks of.

    Raises VerificationError: ``too_large``, ``malformed``, ``wrong_site``, or as ``PublicKey.verify`` when the site's
    key did not sign it. Whether it has ended is for whoever knows the time.
    """
    if len(token) > MAX_GRANT_BYTES:
        raise VerificationError("too_large", f"a grant has at most {MAX_GRANT_BYTES} bytes")
    content = site_key.verify(token, typ=GRANT_TYPE)
    try:
        grant = decode(content, Grant, MAX_GRANT_BYTES)
        key = PublicKey.from_jwk(grant.jwk)
    except (StrictJsonError, KeyStoreError):
        raise VerificationError("malformed", "the signed content is not a grant") from None
    if site is not None and grant.site != site:
        raise VerificationError("wrong_site", "the grant is for another site")
    return grant, key
