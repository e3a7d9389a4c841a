# SPDX-License-Identifier: Apache-2.0
"""The two ends of an answer: a unit's key that signs it, and the site's list by which it is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import strict_json
from agent.keys import SigningKey, UnitKey
from agent.protocol.response import MAX_RESPONSE_BYTES, RESPONSE_TYPE
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from agent.uplink.answers import Answers

ENVELOPE = ("site", "unit", "verb", "command", "number")  # what an answer says beside the outcome


def site_list(site: str = "hq", **units: UnitKey) -> TrustList:
    """A list of ``units``; '_' in a name stands for '-'."""
    entries = {
        name.replace("_", "-"): (UnitKeyEntry(jwk=key.public_jwk(), status="active"),) for name, key in units.items()
    }
    return TrustList(version=1, site=site, serial=1, issued_at="2026-01-05T08:00:00Z", units=entries)


def trusting(site: str = "hq", **units: UnitKey) -> TrustedUnits:
    """Whoever believes these units."""
    return TrustedUnits(site_list(site, **units))


def write_trust(folder: Path, site_key: SigningKey, listed: TrustList) -> None:
    """The public files of a site in a program's folder: ``site.jwk`` and ``trust.jws``."""
    (folder / "site.jwk").write_text(strict_json.dumps(site_key.public_jwk()))
    (folder / "trust.jws").write_text(listed.sign(site_key))


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
