# SPDX-License-Identifier: Apache-2.0
"""Replacing the site's own keys: the command key in two acts, epoch keys in one.

The command key: begin, carry the statement to every unit, finish. In between both keys exist: ``site.key``
for units that have not changed yet, ``site.key.next`` for those that have. ``finish`` destroys the old one; a
unit that was away then takes the statement by hand.

Epoch keys change by themselves each week. When a unit was stolen, the thief has those of this week and the
next two: a new generation replaces them, and each other unit gets it by ``issue_epoch_keys``.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from agent.clock import Clock
from agent.disk.files import supersede
from agent.errors import RefusedError
from agent.keys import SigningKey, load_public_key
from agent.match.policy import Policy, sign_policy
from agent.protocol.record import load, save
from agent.protocol.site_key import propose
from agent.site.delegation import hand_epoch_keys, hand_mandate
from agent.site.folder import SYSTEM_CLOCK, changing, opened
from agent.site.mandated import mandate_is_by
from agent.site.policies import sign_policy_anew
from agent.site.records import SiteRecord


def begin_site_key_change(
    folder: Path, policy: Policy, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None
) -> bytes:
    """Make the next command key, and what ``key/rotate`` takes: the statement, and ``policy`` signed by that key.

    May be repeated until ``finish_site_key_change``, for instance with another unit's policy; the key stays the same.
    """
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        path = site.files.next_site_key
        if path.exists():
            new = SigningKey.load(path, passphrase)
        else:
            new = SigningKey.generate()
            new.save(path, passphrase)
        site.log("site_key_change_begun", kid=new.kid, policy=policy.digest)
        token = propose(site.signer, new, site=site.name, now=site.now())
        return json.dumps({"site_key": token, "policy": sign_policy(policy, new)}).encode()


def rotate_epoch_keys(folder: Path, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> int:
    """Have all epoch keys that are issued from now on belong to a new generation; its number."""
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        record = load(site.files.record, SiteRecord)
        record = msgspec.structs.replace(record, generation=record.generation + 1)
        save(site.files.record, record)
        site.__dict__.pop("generation", None)  # it was read before
        if site.files.delegated:
            hand_epoch_keys(site)
        site.log("epoch_keys_replaced", generation=record.generation)
        return record.generation


def finish_site_key_change(folder: Path, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> str:
    """Destroy the old command key and put the next one in its place; its thumbprint.

    The list of units is signed anew. May be repeated after a power cut. RefusedError when no change was begun.
    """
    with opened(folder, clock=clock, passphrase=passphrase) as site:
        files = site.files
        begun = files.next_site_key.exists()
        if begun:
            SigningKey.load(files.next_site_key, passphrase)  # a wrong passphrase must not cost the old key
            _ = site.authority, site.master
            supersede(files.next_site_key, files.site_key)
        former = load_public_key(files.site_jwk)
        if not begun and former.kid == site.signer.kid and mandate_is_by(files, former, site.name):
            raise RefusedError(
                f"no change of the site's key is under way, or it has ended: {former.kid} signs; a change begins with"
                " the units' policy"
            )
        sign_policy_anew(site, former)  # before the former key is known nowhere any more
        site.complete("site_key_changed", kid=site.signer.kid)
        if files.delegated:
            hand_mandate(site)  # the one by the former key counts nowhere any more
        return site.signer.kid
