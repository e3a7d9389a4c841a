# SPDX-License-Identifier: Apache-2.0
"""What a start says: to the audit log, what was changed since the start before; to the site, what it has to say."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping

import msgspec

from agent.audit.chain import Fact, Kind
from agent.audit.log import AuditLog
from agent.clock import Clock
from agent.match.policy import Policy
from agent.protocol.event import Condition
from agent.unit.confirm import tell_ageing
from agent.unit.stores import Stores

log = logging.getLogger("postern")

UNASKED_CLOCK = (
    "nobody could be asked whether the clock is right ({}), so events say 'unsynced': allow adjtimex, as the shipped"
    " postern.service does"
)

# A fact of ``started`` that differs from the last start's, and the entry that says so.
CHANGES: Mapping[str, Kind] = {
    "version": "updated",
    "config": "config_changed",
    "policy": "policy_changed",
    "model": "model_changed",
    "kid": "keys_renewed",
}


def log_start(audit: AuditLog, facts: Mapping[str, Fact]) -> None:
    """Append an entry for each change since the last start, then ``started``; raises StorageError."""
    before = audit.last("started")
    if before is not None:
        for name, kind in CHANGES.items():
            if name in before.facts and before.facts[name] != facts[name]:
                audit.append(kind, {"before": before.facts[name], "after": facts[name]})
    audit.append("started", facts)


def damaged(count: int, of: int) -> str:
    """What is to be done about references that do not open."""
    return f"{count} of {of} references are damaged and match nobody: restore them, or enrol these people again"


def of_other_models(count: int) -> str:
    """What is to be done about references that the unit's model did not make."""
    return f"{count} references are of another model than this unit's and match nobody: enrol these people again"


def tell_asked(stores: Stores, policy: Policy, clock: Clock, on_condition: Callable[[Condition], None]) -> None:
    """Say at each start what keeps the unit from doing all of its work.

    What the site has to say, what nobody could be asked, and how many people wait at the door in vain.
    """
    gallery = stores.gallery
    if (unreadable := gallery.unreadable()) > 0:
        log.error("%s", damaged(unreadable, len(gallery)))
    if (others := gallery.of_other_models(policy.model, policy.formerly)) > 0:
        log.warning("%s", of_other_models(others))
    if (refusal := clock.refusal()) is not None:
        log.warning("%s", UNASKED_CLOCK.format(refusal))
    if (doubt := stores.generation.doubt) is not None:
        log.error("%s", doubt)
        on_condition("tamper")
    if stores.ageing.asks():
        log.warning("%s", tell_ageing(stores.ageing))
        on_condition("clock_step")


def digest_of(settings: msgspec.Struct) -> str:
    """Digest of settings, whatever the file that holds them looks like."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(settings, enc_hook=str, order="deterministic")).hexdigest()
