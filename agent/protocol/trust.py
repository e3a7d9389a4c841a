# SPDX-License-Identifier: Apache-2.0
"""Whom a subscriber believes: the units of a site, their keys, and which of them no longer count.

The list is one compact JWS by the site's key. Its ``serial`` rises with every change, so that an older
list, from before a revocation, can be refused.

Version 2 ends (``expires_at``) and may bind a replaced key to its last number (``last_seq``). A reader that knows
version 1 alone refuses it as unreadable: upgrade the subscribers before the site. Version 1 is still read.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

import msgspec
import rfc8785

from agent.errors import KeyStoreError, RefusedError, VerificationError
from agent.keys import MAX_TOKEN_BYTES, PublicKey
from agent.parse import strict_json
from agent.protocol.grant import SEPARATOR, SIGNS_TRUST, Signer, check_number, read_grant, verify_document
from agent.protocol.names import Name, Sequence, Time, parse_time

TRUST_TYPE = "postern-trust+jws"
MAX_KEYS_PER_UNIT = 16  # one a year, and some repairs


class UnitKeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One event key of a unit. ``until`` bounds a key that was replaced: rows signed by it may still wait.

    ``last_seq``, where the site knows it: the number of the last event that the unit itself signed with that key.
    """

    jwk: dict[str, str]
    status: Literal["active", "revoked"]
    until: Time | None = None
    last_seq: Sequence | None = None


class TrustList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the site signs. ``expires_at`` stands in version 2, and there alone; so does ``last_seq``."""

    version: Literal[1, 2]
    site: Name
    serial: Annotated[int, msgspec.Meta(ge=1, le=strict_json.MAX_SAFE_INTEGER)]
    issued_at: Time
    expires_at: Time | None = None
    units: dict[Name, Annotated[tuple[UnitKeyEntry, ...], msgspec.Meta(max_length=MAX_KEYS_PER_UNIT)]]

    def sign(self, key: Signer) -> str:
        """Sign the list as a compact JWS; RefusedError when nobody could read it any more."""
        token = key.sign(rfc8785.dumps(msgspec.to_builtins(self)), typ=TRUST_TYPE)
        if len(token) > MAX_TOKEN_BYTES:
            raise RefusedError("the list of units is too long: make a second site for further units")
        return token


class TrustedKey(msgspec.Struct, frozen=True):
    """A key, whose it is, and until when it counts."""

    unit: str
    key: PublicKey
    revoked: bool
    until: datetime | None
    last_seq: int | None = None

    def counts_at(self, now: datetime) -> bool:
        """Whether a signature by this key is to be believed now."""
        return not self.revoked and (self.until is None or now <= self.until)

    def may_say(self, seq: int, *, backlog: bool) -> bool:
        """Whether an event of this number may come on this leaf: a replaced key only empties its outbox."""
        replaced = self.until is not None or self.last_seq is not None
        return (backlog or not replaced) and (self.last_seq is None or seq <= self.last_seq)


class TrustedUnits:
    """A verified list, by key id."""

    def __init__(self, content: TrustList) -> None:
        """Take a list whose signature was checked; KeyStoreError when a key in it is unusable or stands twice."""
        entries = [entry for unit in content.units.values() for entry in unit]
        if (content.version == 1) != (content.expires_at is None) or (
            content.version == 1 and any(entry.last_seq is not None for entry in entries)
        ):
            raise KeyStoreError("the site's list of units is not of its version: write the list again")
        self.site = content.site
        self.serial = content.serial
        self.mandate = 0  # number of the mandate of the site's service, where that signed it
        self.expires = None if content.expires_at is None else parse_time(content.expires_at)
        self._keys: dict[str, TrustedKey] = {}
        for entry in _entries(content):
            if entry.key.kid in self._keys:
                raise KeyStoreError("a key stands twice in the site's list of units: write the list again")
            self._keys[entry.key.kid] = entry

    @classmethod
    def from_signed(
        cls, token: bytes, site_key: PublicKey, *, minimum_serial: int = 0, minimum_mandate: int = 0
    ) -> TrustedUnits:
        """Verify a list that the site signed, or its service.

        Raises VerificationError: as ``verify_document`` does, ``malformed`` for another content, ``superseded`` for a
        list by a mandate below ``minimum_mandate``, and ``replayed`` for one older than ``minimum_serial``: the highest
        seen so far.
        """
        text, mandates = token.decode("ascii", errors="replace").strip(), [0]
        payload = verify_document(
            text, site_key, typ=TRUST_TYPE, power=SIGNS_TRUST, site=None, now=None, on_mandate=mandates.append
        )
        check_number(mandates[-1], minimum_mandate)
        try:
            content = strict_json.decode(payload, TrustList, MAX_TOKEN_BYTES)
            trusted = cls(content)
        except (ValueError, KeyStoreError):
            raise VerificationError("malformed", "the site's list of units is not readable: fetch it again") from None
        if trusted.serial < minimum_serial:
            raise VerificationError("replayed", "the site's list of units is older than the one known: fetch it again")
        if mandates[-1]:
            read_grant(text.partition(SEPARATOR)[0], site_key, site=trusted.site)  # of this very site
        trusted.mandate = mandates[-1]
        return trusted

    def find(self, kid: str) -> TrustedKey | None:
        return self._keys.get(kid)

    def all_keys(self) -> tuple[TrustedKey, ...]:
        """Every key, also those that count no more."""
        return tuple(self._keys.values())

    def counting_at(self, now: datetime) -> tuple[TrustedKey, ...]:
        """Every key whose signatures are to be believed now."""
        return tuple(entry for entry in self._keys.values() if entry.counts_at(now))

    def expired_at(self, now: datetime) -> bool:
        """Whether the list has ended; one of version 1 never does."""
        return self.expires is not None and now > self.expires

    def units(self) -> tuple[str, ...]:
        """Name all units, in order."""
        return tuple(sorted({entry.unit for entry in self._keys.values()}))

    def units_in_service(self) -> tuple[str, ...]:
        """Name the units with a present key, in order: neither revoked nor replaced."""
        return tuple(sorted({key.unit for key in self._keys.values() if not key.revoked and key.until is None}))


def _entries(content: TrustList) -> Iterator[TrustedKey]:
    for unit, entries in content.units.items():
        for entry in entries:
            until = None if entry.until is None else parse_time(entry.until)
            revoked = entry.status == "revoked"
            yield TrustedKey(unit, PublicKey.from_jwk(entry.jwk), revoked, until, entry.last_seq)
