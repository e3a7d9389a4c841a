# SPDX-License-Identifier: Apache-2.0
"""Tokens at one unit: what it needs to take them, taking one, and issuing one to somebody who enrolled here.

A token is taken when: the clock is known to be right; the site's list is in force; a unit of that list signed it; it
is not revoked; it opens with the site's key of tokens; it has not ended; it names this unit, its model, its purpose and
the version of its notice; and its subject neither withdrew (the list) nor was erased here (a tombstone).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from agent.clock import Clock
from agent.config.schema import Config
from agent.disk.files import PUBLIC_MODE, can_be_key, read_secret, read_token, write_atomic
from agent.door.token import Carried
from agent.errors import KeyStoreError, PosternError, RefusedError, VerificationError
from agent.gallery.records import Held
from agent.gallery.references import References
from agent.gallery.template import Vector, pack, unpack
from agent.keys import UnitKey, load_public_key
from agent.protocol.names import parse_time
from agent.protocol.subject import subject_digest
from agent.protocol.token import (
    ID_BYTES,
    MAX_UNITS,
    TOKEN_KEY_BYTES,
    Content,
    Outside,
    check_key,
    check_signature,
    look_at,
    make_token,
    model_mark,
    open_content,
    terms_mark,
    unit_mark,
)
from agent.protocol.token_list import MAX_LIST_BYTES, MAX_TOKEN_DAYS, TokenList, read_token_list, subject_mark
from agent.unit.key_files import UnitFiles

GET_KEY = "issue this unit's epoch keys again at the site (postern site issue-keys), the key of tokens comes with them"
GET_LIST = "carry the site's newest here (postern site token-list, then postern ask UNIT key/rotate token_list=@FILE)"


def install_token_list(keys: Path, content: bytes, *, site: str) -> TokenList:
    """Put the site's list in force. VerificationError as ``read_token_list``, or ``replayed`` for an older one."""
    files = UnitFiles(keys)
    token = content.decode("ascii", errors="replace").strip()
    listed = read_token_list(token, load_public_key(files.site_jwk), site=site)
    try:
        held = load_token_list(files, site=site)
    except (KeyStoreError, VerificationError):  # none, or one by a key that the site has replaced
        held = None
    if held is not None and held.serial > listed.serial:
        raise VerificationError("replayed", f"this unit has list {held.serial} of tokens, which is newer: copy that")
    write_atomic(files.token_list, token.encode(), mode=PUBLIC_MODE)
    return listed


def load_token_list(files: UnitFiles, *, site: str) -> TokenList:
    """The list that this unit holds; raises KeyStoreError and VerificationError."""
    if not files.token_list.exists():
        raise KeyStoreError(f"this unit has no list of tokens: {GET_LIST}")
    token = read_token(files.token_list, MAX_LIST_BYTES)
    return read_token_list(token, load_public_key(files.site_jwk), site=site)


def load_token_key(files: UnitFiles) -> bytes:
    """The site's key of tokens; raises KeyStoreError."""
    if not files.token_key.exists():
        raise KeyStoreError(f"this unit has no key of tokens: {GET_KEY}")
    key = read_secret(files.token_key)
    if not can_be_key(key, TOKEN_KEY_BYTES):
        raise KeyStoreError(f"{files.token_key} is damaged: {GET_KEY}")
    return key


def shortcomings(config: Config, clock: Clock) -> list[str]:
    """Why this unit would take no token at this moment, a sentence each."""
    found = [] if clock.state() == "synced" else [CLOCK]
    files = UnitFiles(config.keys.folder)
    try:
        load_token_key(files)
    except PosternError as error:
        found.append(str(error))
    try:
        if not load_token_list(files, site=config.unit.site).is_in_force(clock.now()):
            found.append(ENDED)
    except PosternError as error:
        found.append(str(error))
    return found


CLOCK = "tokens wait until this unit knows the time: let its clock be synchronised"
ENDED = f"the list of tokens of this unit has ended: {GET_LIST}"


class TokenCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Takes tokens at one unit; ``tombstones`` gives the digests of those who were erased here.

    ``latest`` is the wall clock, or a later time that this unit knows to be over: one that is set back makes nothing
    valid again.
    """

    config: Config
    model: str
    clock: Clock
    latest: Callable[[], datetime]
    tombstones: Callable[[], Sequence[str]]

    def __call__(self, data: bytes) -> Carried:
        """Verify and open; VerificationError with its reason, ``no_token`` for bytes that are something else."""
        outside = look_at(data)
        listed, key = self._believed(outside)
        content = open_content(outside, key, site=self.config.unit.site)
        self._check(content, listed)
        try:
            row = unpack(content.template)
        except ValueError:
            raise VerificationError("damaged", "the token holds no reference: ask the desk for a new one") from None
        references = References((content.subject,), row[np.newaxis], self.model, carried=True)
        again = partial(self._again, outside, replace(content, template=b""))
        return Carried(references, outside.token_id, content.expires_at, again)

    def _again(self, outside: Outside, content: Content) -> None:
        """Raise VerificationError when a token that was taken counts no more; ``content`` is without its reference."""
        listed, key = self._believed(outside)
        check_key(outside, key)
        self._check(content, listed)

    def _believed(self, outside: Outside) -> tuple[TokenList, bytes]:
        """The list in force and the key of tokens, where by them the token is an issuer's and was not revoked."""
        site = self.config.unit.site
        if self.clock.state() != "synced":
            raise VerificationError("clock", CLOCK)
        files = UnitFiles(self.config.keys.folder)
        try:
            listed, key = load_token_list(files, site=site), load_token_key(files)
        except PosternError as error:
            raise VerificationError("not_ready", str(error)) from None
        if not listed.is_in_force(self.latest()):
            raise VerificationError("list_ended", ENDED)
        check_signature(outside, listed.issuer_keys(), site=site)
        if outside.token_id.hex() in listed.tokens:
            raise VerificationError("revoked", REVOKED)
        return listed, key

    def _check(self, content: Content, listed: TokenList) -> None:
        config = self.config
        if self.latest() >= content.expires_at:
            raise VerificationError("expired", "the token has ended: ask the desk for a new one")
        if unit_mark(config.unit.id) not in content.units:
            raise VerificationError("wrong_unit", "the token is not for this unit: use the one that it names")
        if content.model != model_mark(self.model):
            raise VerificationError(
                "wrong_model", "the token was made with another model than this unit has: ask the desk for a new one"
            )
        if content.terms != terms_mark(config.purpose, config.notice.version):
            raise VerificationError(
                "wrong_terms",
                "the token was given for another purpose or notice than this unit's: read the notice here, then ask the"
                " desk for a new one",
            )
        if subject_mark(content.subject) in listed.subjects or subject_digest(content.subject) in self.tombstones():
            raise VerificationError("revoked", REVOKED)


REVOKED = "the token was revoked: ask the desk for a new one"


class Issued(msgspec.Struct, frozen=True):
    """A token as bytes, and what stands beside its code."""

    token: bytes
    token_id: str
    expires_at: datetime
    units: tuple[str, ...]


def make_issued(
    config: Config,
    held: Held,
    reference: Vector,
    *,
    model: str,
    key: UnitKey,
    clock: Clock,
    units: Sequence[str] | None,
    until: datetime | None,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> Issued:
    """Make the token of somebody who enrolled here, for units that the consent names; it ends when that does at last.

    Raises RefusedError, and KeyStoreError or VerificationError when the site has not made this unit fit for it.
    """
    files, now = UnitFiles(config.keys.folder), clock.now()
    if clock.state() != "synced":
        raise RefusedError(CLOCK)
    token_key, listed = load_token_key(files), load_token_list(files, site=config.unit.site)
    if not listed.is_in_force(now):
        raise RefusedError(ENDED)
    if key.kid not in {issuer.kid for issuer in listed.issuer_keys()}:
        raise RefusedError(
            f"this unit may not issue tokens: postern site token-list --issuer {config.unit.id}, and carry the list"
            " here"
        )
    named = tuple(units) if units is not None else held.units
    if foreign := [unit for unit in named if unit not in held.units]:
        raise RefusedError(f"the consent does not name {', '.join(foreign)}: it names {', '.join(held.units)}")
    if len(named) > MAX_UNITS:
        raise RefusedError(f"the consent names {len(named)} units and a token holds {MAX_UNITS}: choose with --unit")
    ends = min(held.expires_at, now + timedelta(days=MAX_TOKEN_DAYS), until or held.expires_at)
    ends = parse_time(ends.strftime("%Y-%m-%dT%H:%M:%SZ"))  # whole seconds, never later
    if ends <= now:
        raise RefusedError("the token would have ended already: give a later --until, or ask for a new consent")
    content = Content(
        subject=held.subject,
        expires_at=ends,
        model=model_mark(model),
        terms=terms_mark(held.purpose, held.notice_version),
        units=tuple(unit_mark(unit) for unit in named),
        template=pack(reference),
    )
    token_id = random(ID_BYTES)
    token = make_token(content, token_id=token_id, key=token_key, issuer=key, site=config.unit.site)
    return Issued(token, token_id.hex(), ends, named)
