# SPDX-License-Identifier: Apache-2.0
"""The key that the site seals epoch keys to: it serves once.

Taking an issue writes in this order, each durable before the next: the next key (``seal.key.next``), the epoch keys,
``seal.json`` with the number of the issue and the name of the next key, and the next key over the old one, whose bytes
are overwritten first. ``seal.json`` decides: before it the same issue can be taken again, after it the next start, or
the next use, ends what was cut off. The answer follows from it and is signed anew each time, so none can be lost.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from agent.clock import ClockState
from agent.disk.files import remove, supersede, write_atomic
from agent.errors import VerificationError
from agent.keys import PublicKey, SigningKey, decode_base64url
from agent.outbox.epoch_keys import EpochKeys
from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.epoch_keys import SEAL_KEY_TYPE, IssuedKeys, SealStatement, open_epoch_keys
from agent.protocol.names import Digest
from agent.protocol.record import Record, encode, load, save
from agent.unit.key_files import UnitFiles
from agent.unit.mandate import take_mandate


class SealState(Record, frozen=True):
    """``seal.json``: the last issue that was taken, by number and digest, and the thumbprint of the next key."""

    version: Literal[1]
    number: Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
    issue: Digest
    kid: str


def settle(files: UnitFiles) -> None:
    """End what a power cut interrupted; to be called before the seal key is read. May be repeated."""
    state = _state(files)
    if state is not None and files.next_seal_key.exists() and SigningKey.load(files.next_seal_key).kid == state.kid:
        supersede(files.next_seal_key, files.seal_key)


def take_issue(
    files: UnitFiles,
    held: EpochKeys,
    sealed: str,
    *,
    site_key: PublicKey,
    site: str,
    unit: str,
    now: datetime,
    clock: ClockState,
) -> None:
    """Put epoch keys that the site issued to this unit in force and go on to the next seal key.

    The issue that was taken last is accepted again and changes nothing. Raises as ``open_epoch_keys`` and StorageError.
    """
    settle(files)
    if was_taken(files, sealed):
        return
    issued = open_epoch_keys(
        sealed,
        seal_key=files.seal_key,
        site_key=site_key,
        site=site,
        unit=unit,
        above=last_issue(files),
        now=now,
        clock=clock,
        on_mandate=partial(take_mandate, files.mandate),
    )
    if issued.number and not files.next_seal_key.exists():
        SigningKey.generate().save(files.next_seal_key)
    keep_token_key(files, issued)
    held.add(issued.keys)
    if issued.number:
        write_state(files, issued, sealed, SigningKey.load(files.next_seal_key))
        settle(files)


def keep_token_key(files: UnitFiles, issued: IssuedKeys) -> None:
    """Put the key of the site's tokens in force, if the site has any."""
    if issued.token_key is not None:
        write_atomic(files.token_key, decode_base64url(issued.token_key))


def write_state(files: UnitFiles, issued: IssuedKeys, sealed: str, following: SigningKey) -> None:
    """Say durably which issue was taken and which key follows."""
    save(files.seal_state, SealState(version=1, number=issued.number, issue=_digest(sealed), kid=following.kid))


def was_taken(files: UnitFiles, sealed: str) -> bool:
    """Whether this very issue was the last one taken."""
    state = _state(files)
    return state is not None and state.issue == _digest(sealed)


def last_issue(files: UnitFiles) -> int:
    """Number of the last issue that was taken; 0 before the first."""
    state = _state(files)
    return 0 if state is None else state.number


def forget(files: UnitFiles) -> None:
    """Begin anew with other keys, which a site of release 0.1 certified: it numbers nothing."""
    remove(files.seal_state)
    remove(files.next_seal_key)


def statement(files: UnitFiles, *, site: str, unit: str) -> str:
    """Sign which key the site has to seal the next issue to. Raises KeyStoreError."""
    settle(files)
    jwk = SigningKey.load(files.seal_key).public_jwk()
    state = _state(files)
    if state is not None and PublicKey.from_jwk(jwk).kid != state.kid:
        raise VerificationError(
            "wrong_key", "seal.key and seal.json do not belong together: replace this unit's keys, as for a new unit"
        )
    stated = SealStatement(version=1, site=site, unit=unit, number=0 if state is None else state.number, jwk=jwk)
    return SigningKey.load(files.event_key).sign(encode(stated), typ=SEAL_KEY_TYPE)


def _state(files: UnitFiles) -> SealState | None:
    return load(files.seal_state, SealState) if files.seal_state.exists() else None


def _digest(sealed: str) -> str:
    return "sha256:" + hashlib.sha256(sealed.encode()).hexdigest()
