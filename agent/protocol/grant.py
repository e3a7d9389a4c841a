# SPDX-License-Identifier: Apache-2.0
"""The right of a program to ask units for something, given by the site: a statement signed by the site's key.

A program that listens must be able to ask for what it missed, and must not hold the key that commands units. It has a
key of its own; the site signs which one, whose, and for which verbs. What it sends is ``grant~command``: two compact
JWS, the grant by the site's key and the command by the program's. A unit needs to know nothing beforehand.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import KeyStoreError, VerificationError
from agent.keys import PublicKey, SigningKey
from agent.protocol.command import Seconds
from agent.protocol.names import Name
from agent.strict_json import StrictJsonError, decode

GRANT_TYPE = "postern-grant+jws"
SEPARATOR = "~"  # in neither part: base64url and dots
MAX_GRANT_BYTES = 2048  # one has about 700
GRANT_DAYS = 400  # as long as the certificate that is issued with it
GRANTABLE = ("outbox/replay",)  # verbs that change nothing and tell nothing that the program may not hear anyway


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``program`` may ask every unit of ``site`` for ``verbs``, by the key ``jwk``, until ``expires_at``."""

    version: Literal[1]
    site: Name
    program: Name
    verbs: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)]
    jwk: dict[str, str]
    expires_at: Seconds  # since 1970, UTC


def make_grant(program: str, key: SigningKey, site_key: SigningKey, *, site: str, now: datetime) -> str:
    """Let ``program`` ask for everything that can be granted; a compact JWS by the site's key."""
    expires_at = int((now + timedelta(days=GRANT_DAYS)).timestamp())
    grant = Grant(version=1, site=site, program=program, verbs=GRANTABLE, jwk=key.public_jwk(), expires_at=expires_at)
    return site_key.sign(msgspec.json.encode(grant), typ=GRANT_TYPE)


def read_grant(token: str, site_key: PublicKey, *, site: str) -> tuple[Grant, PublicKey]:
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
    if grant.site != site:
        raise VerificationError("wrong_site", "the grant is for another site")
    return grant, key
