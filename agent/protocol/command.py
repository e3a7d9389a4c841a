# SPDX-License-Identifier: Apache-2.0
"""A signed command, as both ends read it; its answer is ``response``'s."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.parse.strict_json import MAX_SAFE_INTEGER
from agent.protocol.names import Name, Seconds, Sequence

SIGNATURE_TYPE = "postern-command+jws"
MAX_COMMAND_BYTES = 16 * 1024  # the largest, epoch keys of 16 audiences, has about 14 000; a consent has 1 500
RENEW = "unit/renew"  # brings a document that the site, or its service, signed
CONFIGURE = "unit/configure"  # brings settings that the site, or its service, signed, or a policy that the site signed
VERBS = (
    "health",
    "enrol/begin",
    "enrol/commit",
    "enrol/abort",
    "subject/revoke",
    "gallery/status",
    "config/get",
    "recognition/pause",
    "recognition/resume",
    "recognition/request",
    "verify",
    "key/rotate",
    "outbox/status",
    "outbox/replay",
    "selftest",
    "unit/confirm",
    RENEW,
    CONFIGURE,
    "console/open",
    "console/close",
)
READING = (
    "health",
    "gallery/status",
    "config/get",
    "outbox/status",
    "outbox/replay",
    "selftest",
)  # verbs that change nothing
Transaction = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]

Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of ``outbox/replay``: numbers of events, both ends included."""

    first: Sequence
    last: Sequence


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is signed. Times are whole seconds since 1970, UTC."""

    site: Name
    unit: Name
    verb: Annotated[str, Meta(max_length=32)]
    cmd_seq: Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
    issued_at: Seconds
    expires_at: Seconds
    transaction: Transaction
    args: dict[str, Any] = {}
    nonce: Nonce | None = None
