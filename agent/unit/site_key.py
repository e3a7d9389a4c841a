# SPDX-License-Identifier: Apache-2.0
"""A new command key for a site: the old key names it, the new one proves that somebody holds it.

The same rule by which TUF replaces a root: signed by both (TUF specification 1.0, sec. 5.3.4). The statement
is a JWS by the new key inside a JWS by the old one, and secret to nobody. A unit obeys the new key from
then on, and the old one never again; a replayed statement is refused, because its outer key no longer counts.

The policy that a unit matches by is signed by the same key, so both change together. A power cut may not
leave one without the other: they are first written to one file, ``site-change.json``, from which the next
start completes what was cut off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.disk.files import PUBLIC_MODE, remove, write_atomic
from agent.keys import PublicKey
from agent.protocol.record import Record, load, save
from agent.unit.key_files import UnitFiles

MAX_TOKEN_CHARACTERS = 64 * 1024  # a signed policy of 32 KiB in base64url


class PendingChange(Record, frozen=True):
    """``site-change.json``: what was accepted and is being put in force."""

    site_jwk: dict[str, str]
    policy: Annotated[str, Meta(max_length=MAX_TOKEN_CHARACTERS)]


def put_in_force(keys: Path, policy: Path, *, site_key: PublicKey, policy_token: str) -> None:
    """Make ``site_key`` the key of this unit's site and ``policy_token`` its policy: both, or after a cut neither."""
    save(UnitFiles(keys).site_change, PendingChange(site_jwk=site_key.jwk(), policy=policy_token))
    complete(keys, policy)


def complete(keys: Path, policy: Path) -> None:
    """Finish a change that was accepted; to be called before either file is read. May be repeated."""
    pending = UnitFiles(keys).site_change
    if not pending.exists():
        return
    change = load(pending, PendingChange)
    write_atomic(policy, change.policy.encode(), mode=PUBLIC_MODE)
    write_atomic(UnitFiles(keys).site_jwk, json.dumps(change.site_jwk).encode(), mode=PUBLIC_MODE)
    remove(pending)  # not overwritten first: a cut in between would leave a file that stops the unit
