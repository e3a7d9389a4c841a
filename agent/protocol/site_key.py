# SPDX-License-Identifier: Apache-2.0
"""A new command key for a site: the old key names it, the new one proves that somebody holds it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from agent.errors import VerificationError
from agent.keys import PublicKey, SigningKey
from agent.protocol.joining import unverified
from agent.protocol.names import Name, Time, round_down
from agent.protocol.record import Record, encode

CHANGE_TYPE = "postern-site-key+jws"


class SiteKeyChange(Record, frozen=True):
    """What both keys sign."""

    version: Literal[1]
    site: Name
    issued_at: Time
    jwk: dict[str, str]


def propose(old: SigningKey, new: SigningKey, *, site: str, now: datetime) -> str:
    """State that ``new`` follows ``old`` at ``site``."""
    change = SiteKeyChange(version=1, site=site, issued_at=round_down(now, 1), jwk=new.public_jwk())
    return old.sign(new.sign(encode(change), typ=CHANGE_TYPE).encode(), typ=CHANGE_TYPE)


def accept(token: str, held: PublicKey, *, site: str) -> PublicKey:
    """Return the key that follows ``held``.

    Raises VerificationError: as ``PublicKey.verify`` for either signature, ``malformed``, ``wrong_site``.
    """
    try:
        inner = held.verify(token, typ=CHANGE_TYPE).decode("ascii")
    except UnicodeDecodeError:
        raise VerificationError("malformed", "the change of key is not readable: make it again") from None
    change = unverified(inner, SiteKeyChange)
    new = PublicKey.from_jwk(change.jwk)
    new.verify(inner, typ=CHANGE_TYPE)
    if change.site != site:
        raise VerificationError("wrong_site", "the change of key is for another site")
    return new
