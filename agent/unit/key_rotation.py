# SPDX-License-Identifier: Apache-2.0
"""Renewing a unit's keys while it runs: epoch keys, the gallery's keys, and the key that its site commands by.

One kind at a time. Everything is verified before anything is written, and each kind is durable or absent
after a power cut. No answer holds a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.disk.files import read_brought
from agent.errors import RefusedError
from agent.gallery.store import GalleryStore
from agent.keys import PublicKey, load_public_key
from agent.match.policy import MAX_POLICY_BYTES, POLICY_TYPE, parse_policy, verify_policy
from agent.outbox.epoch_keys import EpochKeys
from agent.parse.strict_json import convert
from agent.protocol.site_key import accept
from agent.unit.certificate import renew_certificate
from agent.unit.key_files import UnitFiles
from agent.unit.revocations import install_revocations
from agent.unit.seal_key import statement, take_issue
from agent.unit.site_key import complete, put_in_force
from agent.unit.tokens import install_token_list


class NewKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``args`` of ``key/rotate``: one of these, but ``site_key`` together with ``policy``."""

    seal_key: Literal["show"] | None = None  # renews nothing: what the next epoch keys are to be sealed to
    epoch_keys: str | None = None  # sealed by the site kit to this unit
    references: Literal["renew"] | None = None  # new rotations, new keys, new key over them
    certificate: str | None = None  # a new one for the present TLS key, with that of who issued it: PEM
    revoked_brokers: str | None = None  # the site's list of broker certificates that nobody may believe any more
    token_list: str | None = None  # the site's list of who issues tokens, and of those that count no more
    site_key: str | None = None  # the site kit's statement about its new command key
    policy: str | None = None  # the policy in force, signed by that key


class KeyRotation(msgspec.Struct, frozen=True, kw_only=True):
    """Renews the keys of one running unit; ``on_site_key`` is told by which key commands are signed from now on."""

    keys: Path
    policy: Path
    site: str
    unit: str
    audience: str
    epoch_keys: EpochKeys
    gallery: GalleryStore
    audit: AuditLog
    clock: Clock
    on_site_key: Callable[[PublicKey], None]

    def rotate(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what ``args`` (see ``NewKeys``) ask; what was renewed.

        Raises RefusedError (``bad_args``, ``wrong_policy``), VerificationError (its reasons), StorageError and
        KeyStoreError.
        """
        wanted = _read(args)
        return self._do(wanted)

    def renew(self, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Do what the site's service may ask: of the kinds of ``rotate`` those that change no reference and no key.

        Raises as ``rotate``, and RefusedError ``not_granted``.
        """
        wanted = _read(args)
        if wanted.references is not None or wanted.site_key is not None:
            raise RefusedError("this takes a command by the site's own key: use key/rotate", reason="not_granted")
        return self._do(wanted)

    def _do(self, wanted: NewKeys) -> Mapping[str, Any]:
        if wanted.seal_key is not None:
            return {"seal_key": statement(UnitFiles(self.keys), site=self.site, unit=self.unit)}
        if wanted.epoch_keys is not None:
            done = self._renew_epoch_keys(wanted.epoch_keys)
        elif wanted.certificate is not None:
            days = renew_certificate(self.keys, self.unit, wanted.certificate, now=self.clock.now())
            done = {"rotated": "certificate", "days": days}
        elif wanted.revoked_brokers is not None:
            count = install_revocations(self.keys, wanted.revoked_brokers.encode())
            done = {"rotated": "revoked_brokers", "count": count}
        elif wanted.token_list is not None:
            listed = install_token_list(self.keys, wanted.token_list.encode(), site=self.site)
            done = {"rotated": "token_list", "serial": listed.serial, "expires_at": listed.expires_at}
        elif wanted.site_key is not None and wanted.policy is not None:
            done = self._change_site_key(wanted.site_key, wanted.policy)
        else:
            self.gallery.renew()
            done = {"rotated": "references", "count": len(self.gallery)}
        self.audit.append("keys_renewed", {"what": done["rotated"]})
        return done

    def _renew_epoch_keys(self, sealed: str) -> dict[str, Any]:
        files = UnitFiles(self.keys)
        take_issue(
            files,
            self.epoch_keys,
            sealed.strip(),
            site_key=load_public_key(files.site_jwk),
            site=self.site,
            unit=self.unit,
            now=self.clock.now(),
            clock=self.clock.state(),
        )
        stated = statement(files, site=self.site, unit=self.unit)
        return {
            "rotated": "epoch_keys",
            "epochs": list(self.epoch_keys.epochs(self.audience)),
            "seal_key": stated,
        }

    def _change_site_key(self, token: str, policy: str) -> dict[str, Any]:
        new = change_site_key(self.keys, self.policy, token=token, policy_token=policy, site=self.site)
        self.on_site_key(new)
        return {"rotated": "site_key", "kid": new.kid}


def change_site_key(keys: Path, policy: Path, *, token: str, policy_token: str, site: str) -> PublicKey:
    """Accept a new key of the site, with the policy in force signed by it; the new key.

    Raises VerificationError (see ``succession.accept``), PolicyError, and RefusedError (``wrong_policy``) when it is
    another policy than the one in force: a change of key must not change who matches.
    """
    complete(keys, policy)
    held = load_public_key(UnitFiles(keys).site_jwk)
    new = accept(token.strip(), held, site=site)
    kept = read_brought(policy, 2 * MAX_POLICY_BYTES).decode("ascii", errors="replace").strip()
    in_force = parse_policy(held.verify(kept, typ=POLICY_TYPE))
    if verify_policy(policy_token, new, model=in_force.model) != in_force:
        raise RefusedError(
            "this is another policy than the unit's: have the policy in force signed by the new key",
            reason="wrong_policy",
        )
    put_in_force(keys, policy, site_key=new, policy_token=policy_token.strip())
    return new


def _read(args: Mapping[str, Any]) -> NewKeys:
    try:
        wanted = convert(args, NewKeys)
    except msgspec.ValidationError:
        wanted = NewKeys()
    kinds = [getattr(wanted, name) for name in NewKeys.__struct_fields__ if name != "policy"]
    if sum(kind is not None for kind in kinds) != 1 or (wanted.site_key is None) != (wanted.policy is None):
        raise RefusedError(
            "give one of epoch_keys, seal_key=show, references=renew, certificate, revoked_brokers, token_list, or"
            " site_key with policy",
            reason="bad_args",
        )
    return wanted
