# SPDX-License-Identifier: Apache-2.0
"""What the audit log says about a start, and about what was changed since the start before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from agent.audit.chain import Fact, Kind
from agent.audit.log import AuditLog

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


def digest_of(settings: msgspec.Struct) -> str:
    """Digest of settings, whatever the file that holds them looks like."""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(settings, enc_hook=str, order="deterministic")).hexdigest()
