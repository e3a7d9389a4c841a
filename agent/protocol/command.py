# SPDX-License-Identifier: Apache-2.0
"""A signed command and its answer, as both ends read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.protocol.names import Name
from agent.strict_json import MAX_SAFE_INTEGER

SIGNATURE_TYPE = "postern-command+jws"
MAX_COMMAND_BYTES = 16 * 1024  # the largest, epoch keys of 16 audiences, has about 14 000; a consent has 1 500
MAX_RESPONSE_BYTES = 16 * 1024  # a gallery status of 100 subjects; also what a small broker lets pass
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
    "key/rotate",
    "outbox/status",
    "selftest",
)
Transaction = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Seconds = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]


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
    nonce: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")] | None = None


class Response(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The answer; ``transaction`` is None when no signature vouched for one."""

    status: Literal["ok", "error"]
    transaction: str | None
    error: str | None = None
    message: str | None = None
    nonce: str | None = None
    data: dict[str, Any] | None = None


def encode_response(
    transaction: str | None, data: dict[str, Any] | None, failure: tuple[str, str] | None, nonce: str | None = None
) -> bytes:
    """Write an answer: ``data``, or why there is none as (code, sentence)."""
    if failure is None:
        try:
            answer = msgspec.json.encode(Response(status="ok", transaction=transaction, data=data))
        except (TypeError, ValueError):
            failure = ("fault", "the answer cannot be encoded: report this")
        else:
            if len(answer) <= MAX_RESPONSE_BYTES:
                return answer
            failure = ("too_large", f"done, but the answer is longer than {MAX_RESPONSE_BYTES} bytes")
    error, message = failure
    return msgspec.json.encode(
        Response(status="error", transaction=transaction, error=error, message=message, nonce=nonce)
    )
