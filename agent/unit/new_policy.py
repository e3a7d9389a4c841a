# SPDX-License-Identifier: Apache-2.0
"""A newer matching policy for a running unit, as its site signed and numbered it.

The number is on disk before the policy is: after a power cut in between the same policy is sent again and taken, and
none with a lower number ever is.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from agent.disk.files import PUBLIC_MODE, write_atomic
from agent.errors import VerificationError
from agent.keys import PublicKey
from agent.match.policy import Policy, verify_policy
from agent.protocol.configuration import read_issue
from agent.protocol.names import Digest, Name, Sequence
from agent.protocol.record import Record, load, save


class TakenPolicy(Record, frozen=True):
    """``policy.json``: the highest number that came, of which policy, and of which site."""

    serial: Sequence
    digest: Digest
    site: Name | None = None


def install_policy(
    token: str,
    issue: str,
    *,
    path: Path,
    record: Path,
    site_key: PublicKey,
    site: str,
    now: datetime | None,
    model: str,
    detector: str,
) -> Policy:
    """Put a policy in the place of the one at ``path``; ``now`` is None while the time is not known.

    Raises VerificationError: as ``read_issue``, ``replayed`` for an older one, ``wrong_policy`` where the issue is of
    another; PolicyError when the site did not sign it or it was measured for other models; StorageError.
    """
    issued = read_issue(issue.strip(), site_key, site=site, now=now)
    policy = verify_policy(token, site_key, model=model, detector=detector)
    if policy.digest != issued.digest:
        raise VerificationError("wrong_policy", "the number is of another policy: send both as the site signed them")
    taken = load(record, TakenPolicy) if record.exists() else None
    if taken is not None and taken.site not in (None, site):  # the unit moved
        taken = None
    again = taken is not None and (issued.serial, issued.digest) == (taken.serial, taken.digest)
    if taken is not None and not again and issued.serial <= taken.serial:
        raise VerificationError("replayed", f"this unit has policy {taken.serial}, which is newer: send the newest")
    save(record, TakenPolicy(serial=issued.serial, digest=issued.digest, site=site))
    write_atomic(path, token.strip().encode(), mode=PUBLIC_MODE)
    return policy
