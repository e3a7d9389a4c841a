# SPDX-License-Identifier: Apache-2.0
"""The matching policy of a site: signed and numbered by its own key, for units that join and for those that run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.clock import Clock
from agent.disk.files import PUBLIC_MODE, read_token, write_atomic
from agent.errors import PosternError, RefusedError
from agent.keys import PublicKey, load_public_key
from agent.match.policy import POLICY_TYPE, Policy, parse_policy, sign_policy
from agent.protocol.command import MAX_COMMAND_BYTES
from agent.protocol.configuration import POLICY_VALID_DAYS, PolicyIssue, read_issue
from agent.protocol.grant import MAX_GRANT_BYTES
from agent.protocol.names import round_down
from agent.protocol.record import load, save
from agent.site.folder import SYSTEM_CLOCK, SiteFolder, changing
from agent.site.records import SiteFiles, SiteRecord

AROUND_BYTES = 1024  # of a command besides what it brings


class SignedPolicy(NamedTuple):
    """The policy with its number, as both are sent; ``serial`` is 0 where a release before signed it without one."""

    token: str
    digest: str
    issue: str | None
    serial: int


def issue_policy(folder: Path, policy: Policy, *, clock: Clock = SYSTEM_CLOCK, passphrase: bytes | None = None) -> str:
    """Sign a matching policy for the units, with the next number; which one stands in the log.

    The site's service sends it to every unit. RefusedError when it does not fit into a command.
    """
    with changing(folder, clock=clock, passphrase=passphrase) as site:
        return _issue(site, policy)


def newest_policy(files: SiteFiles) -> SignedPolicy | None:
    """What the site signed last; None where it signed none, or where both files are not of one act."""
    try:
        key, site = load_public_key(files.site_jwk), load(files.record, SiteRecord).site
        token = read_token(files.policy)
        digest = parse_policy(key.verify(token, typ=POLICY_TYPE)).digest
        if not files.policy_issue.exists():
            return SignedPolicy(token, digest, None, 0)
        issue = read_token(files.policy_issue)
        issued = read_issue(issue, key, site=site, now=None)
    except (PosternError, ValueError):
        return None
    return SignedPolicy(token, digest, issue, issued.serial) if issued.digest == digest else None


def sign_policy_anew(site: SiteFolder, former: PublicKey) -> None:
    """Have the site's newest key sign the policy that ``former`` signed; for the act that changes the key."""
    if (policy := _signed_by(site.files, former)) is not None:
        _issue(site, policy)
    elif (policy := _signed_by(site.files, site.signer.public)) is not None and newest_policy(site.files) is None:
        _issue(site, policy)  # a power cut left its number by the key before


def _signed_by(files: SiteFiles, key: PublicKey) -> Policy | None:
    if not files.policy.exists():
        return None
    token = read_token(files.policy)
    try:
        return parse_policy(key.verify(token, typ=POLICY_TYPE))
    except PosternError:
        return None


def _issue(site: SiteFolder, policy: Policy) -> str:
    files, token = site.files, sign_policy(policy, site.signer)
    record = load(files.record, SiteRecord)
    record = msgspec.structs.replace(record, policies=record.policies + 1)
    issue = PolicyIssue(
        version=1,
        site=site.name,
        serial=record.policies,
        issued_at=site.stamp(),
        expires_at=round_down(site.now() + timedelta(days=POLICY_VALID_DAYS), 1),
        digest=policy.digest,
    ).sign(site.signer)
    if (len(token) + len(issue) + AROUND_BYTES) * 4 // 3 + MAX_GRANT_BYTES > MAX_COMMAND_BYTES:
        raise RefusedError("the policy is too long to be sent to a unit: measure fewer galleries, or fewer detectors")
    save(files.record, record)  # before it is signed away: no number stands for two policies
    site.log("policy_signed", digest=policy.digest, model=policy.model, serial=record.policies)
    write_atomic(files.policy, token.encode(), mode=PUBLIC_MODE)
    write_atomic(files.policy_issue, issue.encode(), mode=PUBLIC_MODE)
    return token
