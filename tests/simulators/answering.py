# SPDX-License-Identifier: Apache-2.0
"""Answers under a unit's signature: who makes them, and what was signed."""

from __future__ import annotations

from typing import Any

from agent.keys import UnitKey
from agent.parse import strict_json
from agent.protocol.response import MAX_RESPONSE_BYTES, RESPONSE_TYPE
from agent.uplink.answers import Answers

ENVELOPE = ("site", "unit", "verb", "command", "number")  # what an answer says beside the outcome


def answers(key: UnitKey, unit: str = "door-1", site: str = "hq") -> Answers:
    """Who signs for ``unit``."""
    return Answers(site, unit, key)


def signed_content(payload: bytes, key: UnitKey) -> dict[str, Any]:
    """All that ``key`` signed in an answer; VerificationError when it did not."""
    content = key.public.verify(payload.decode("ascii"), typ=RESPONSE_TYPE)
    found: dict[str, Any] = strict_json.loads(content, limit=MAX_RESPONSE_BYTES)
    return found


def outcome_of(payload: bytes, key: UnitKey) -> dict[str, Any]:
    """The outcome that ``key`` signed."""
    return {name: value for name, value in signed_content(payload, key).items() if name not in ENVELOPE}
