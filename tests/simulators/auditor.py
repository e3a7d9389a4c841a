# SPDX-License-Identifier: Apache-2.0
"""What an auditor finds in a unit's log."""

from __future__ import annotations

from agent.audit.chain import AuditHead, AuditReport, verify_log
from agent.audit.log import AuditLog


def audited(log: AuditLog, head: AuditHead | None = None) -> AuditReport:
    """Check the chain of an open log, as ``postern audit verify`` does."""
    return verify_log(log._path, head)
