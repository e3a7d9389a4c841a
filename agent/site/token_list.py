# SPDX-License-Identifier: Apache-2.0
"""The site's part in tokens: the key that its units seal them with, and the list of who issues them and which are void.

The site makes no token and never holds one: a reference leaves the unit where its person enrolled in that person's own
hands alone. The key follows from the site's master key and goes to the units with their epoch keys, once there is a
list. ``token-list.json`` is what the site remembers, ``token-list.jws`` what is carried to the units.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.errors import RefusedError
from agent.keys import encode_base64url
from agent.parse.strict_json import MAX_SAFE_INTEGER, convert
from agent.protocol.names import Name, Time, parse_time, round_down
from agent.protocol.record import Record, load, save
from agent.protocol.subject import SubjectId
from agent.protocol.token_list import (
    MAX_LIST_DAYS,
    MAX_REVOKED,
    MAX_TOKEN_DAYS,
    SubjectMark,
    TokenId,
    TokenList,
    subject_mark,
)
from agent.site.folder import SYSTEM_CLOCK, SiteFolder, changing
from agent.site.records import SiteFiles

LIST_DAYS = 14  # as often as epoch keys fall due
MAX_ISSUERS = 6
_LABEL = b"postern/token/v1"


class TokenListRecord(Record, frozen=True):
    """``token-list.json``; what is revoked is kept with the day on which the last such token ends."""

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    serial: Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)] = 0
    issuers: Annotated[tuple[Name, ...], Meta(max_length=MAX_ISSUERS)] = ()
    tokens: Annotated[dict[TokenId, Time], Meta(max_length=MAX_REVOKED)] = msgspec.field(default_factory=dict)
    subjects: Annotated[dict[SubjectMark, Time], Meta(max_length=MAX_REVOKED)] = msgspec.field(default_factory=dict)


def token_key(site: SiteFolder) -> str | None:
    """The key of tokens in base64url; None while the site has no list. A new generation of epoch keys has another.

    The site's service, which is online, has none and hands none out: a unit keeps the one that the root gave it.
    """
    if not site.by_root or not site.files.token_record.exists():
        return None
    name = site.name.encode("ascii")
    label = _LABEL + bytes([len(name)]) + name + site.generation.to_bytes(2, "big")
    return encode_base64url(site.master.derive(label))


def issue_token_list(
    folder: Path,
    *,
    issuers: Sequence[str] = (),
    not_issuers: Sequence[str] = (),
    tokens: Sequence[str] = (),
    subjects: Sequence[SubjectId] = (),
    days: int = LIST_DAYS,
    clock: Clock = SYSTEM_CLOCK,
    passphrase: bytes | None = None,
) -> str:
    """Let units issue tokens or no more, revoke tokens and people, and sign the list anew for ``days``.

    RefusedError for an unknown unit, a malformed id, or when too many are revoked; nothing has changed then.
    """
    if not 1 <= days <= MAX_LIST_DAYS:
        raise RefusedError(f"a list of tokens lasts 1 to {MAX_LIST_DAYS} days: what was withheld counts again after it")
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        files = site.files
        record = load(files.token_record, TokenListRecord) if files.token_record.exists() else TokenListRecord()
        named = tuple(dict.fromkeys((*record.issuers, *issuers)))
        for unit in not_issuers:
            site.unit(unit)  # a name that is mistyped would leave the right one in the list
        named = tuple(unit for unit in named if unit not in not_issuers)
        if len(named) > MAX_ISSUERS:
            raise RefusedError(f"at most {MAX_ISSUERS} units issue tokens: take another away with --no-issuer first")
        until = token_end(site)
        record = msgspec.structs.replace(
            record,
            serial=record.serial + 1,
            issuers=named,
            tokens={**_counting(record.tokens, site), **dict.fromkeys(map(_token_id, tokens), until)},
            subjects={**_counting(record.subjects, site), **dict.fromkeys(map(subject_mark, subjects), until)},
        )
        listed = _list(site, record, days)
        save(files.token_record, record)
        site.log("token_list_signed", serial=record.serial, tokens=len(record.tokens), people=len(record.subjects))
        write_atomic(files.token_list, listed.encode(), mode=PUBLIC_MODE)
        return listed


def token_end(site: SiteFolder) -> str:
    """By when every token that exists now has ended."""
    return round_down(site.now() + timedelta(days=MAX_TOKEN_DAYS), 1)


def has_tokens(folder: Path) -> bool:
    """Whether the site in ``folder`` has a list of tokens."""
    return SiteFiles(folder).token_record.exists()


def _list(site: SiteFolder, record: TokenListRecord, days: int) -> str:
    units = [site.unit(unit) for unit in record.issuers]
    keys = [key.jwk for unit in units if not unit.revoked for key in unit.keys if key.status == "active"]
    if len(record.tokens) + len(record.subjects) > MAX_REVOKED:
        raise RefusedError(
            f"more than {MAX_REVOKED} tokens are revoked: replace the key of all with 'postern site"
            " rotate-epoch-keys', and issue those anew that still count"
        )
    return TokenList(
        version=1,
        site=site.name,
        serial=record.serial,
        issued_at=site.stamp(),
        expires_at=round_down(site.now() + timedelta(days=days), 1),
        issuers=tuple(keys),
        tokens=tuple(sorted(record.tokens)),
        subjects=tuple(sorted(record.subjects)),
    ).sign(site.signer)


def _counting(revoked: dict[str, str], site: SiteFolder) -> dict[str, str]:
    """What may still be valid. Without a settled time what ended stays until there is too much, as certificates do."""
    now, is_full = site.now(), len(revoked) >= MAX_REVOKED // 2
    return {
        name: until
        for name, until in revoked.items()
        if not site.is_over(until) and (not is_full or parse_time(until) > now)
    }


def _token_id(text: str) -> str:
    try:
        return convert(text, TokenId)
    except msgspec.ValidationError:
        raise RefusedError("a token's id is 24 hexadecimal digits: it stands on the card") from None
