# SPDX-License-Identifier: Apache-2.0
"""What a site sends a running unit besides keys: settings, and word of which policy is the newest.

Settings are signed by the site, or by its service, for one unit. A policy is signed by the site alone, as before;
beside it an ``issue``, by the site's key too, gives it a number. A unit takes neither with a lower number than it saw.
No secret is in either, so they are not sealed: who reads at the broker reads settings.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.errors import RefusedError, VerificationError
from agent.keys import PublicKey, SigningKey
from agent.parse.strict_json import StrictJsonError
from agent.parse.strict_json import decode as decode_json
from agent.protocol.grant import SIGNS_CONFIGURATION, Signer, verify_document
from agent.protocol.names import Digest, Name, Sequence, Time, parse_time
from agent.protocol.record import Record, decode, encode

CONFIGURATION_TYPE = "postern-configuration+jws"
ISSUE_TYPE = "postern-policy-issue+jws"
MAX_CONFIGURATION_BYTES = 8 * 1024  # signed; it travels in a command of 16 KiB, in base64 once more
VALID_DAYS = 31  # a unit that was away for so long is sent a new one
POLICY_VALID_DAYS = 400  # the site's own key signs it, which is not at hand each month


class Configuration(Record, frozen=True):
    """Settings for one unit; ``file`` and ``lines`` say where each stands in the site's file, for who mends it."""

    version: Literal[1]
    site: Name
    unit: Name
    serial: Sequence
    issued_at: Time
    expires_at: Time
    file: Annotated[str, Meta(max_length=64)]
    settings: dict[str, Any]
    lines: dict[str, int]

    def sign(self, key: Signer) -> str:
        """Sign as the site, or as its service; RefusedError when no unit could read it."""
        token = key.sign(msgspec.json.encode(self), typ=CONFIGURATION_TYPE)
        if len(token) > MAX_CONFIGURATION_BYTES:
            raise RefusedError(
                f"the settings of unit {self.unit} have more than {MAX_CONFIGURATION_BYTES} bytes when signed: set less"
            )
        return token


class PolicyIssue(Record, frozen=True):
    """Which policy of the site is the newest; ``digest`` is the policy's."""

    version: Literal[1]
    site: Name
    serial: Sequence
    issued_at: Time
    expires_at: Time
    digest: Digest

    def sign(self, key: SigningKey) -> str:
        """Sign by the site's own key."""
        return key.sign(encode(self), typ=ISSUE_TYPE)


def read_configuration(
    token: str,
    site_key: PublicKey,
    *,
    site: str,
    unit: str,
    now: datetime | None,
    on_mandate: Callable[[int], None],
) -> Configuration:
    """Verify settings for ``unit``; ``now`` is None while the time is not known.

    Raises VerificationError: as ``verify_document``, ``malformed``, ``wrong_site``, ``wrong_unit``, ``expired``.
    """
    if len(token) > MAX_CONFIGURATION_BYTES:
        raise VerificationError("too_large", f"a configuration has at most {MAX_CONFIGURATION_BYTES} bytes")
    content = verify_document(
        token,
        site_key,
        typ=CONFIGURATION_TYPE,
        power=SIGNS_CONFIGURATION,
        site=site,
        now=now,
        on_mandate=on_mandate,
    )
    try:
        read = decode_json(content, Configuration, MAX_CONFIGURATION_BYTES, floats=True)
    except StrictJsonError:
        raise VerificationError("malformed", "the site signed what is no configuration: sign it again") from None
    if read.unit != unit:
        raise VerificationError("wrong_unit", f"the configuration is for unit {read.unit}: send this unit its own")
    _check(read.site, read.expires_at, site, now)
    return read


def read_issue(token: str, site_key: PublicKey, *, site: str, now: datetime | None) -> PolicyIssue:
    """Verify which policy is the newest, by the site's own key.

    Raises VerificationError: as ``PublicKey.verify``, ``malformed``, ``wrong_site``, ``expired``.
    """
    try:
        read = decode(site_key.verify(token, typ=ISSUE_TYPE), PolicyIssue)
    except ValueError:
        raise VerificationError("malformed", "the site signed what is no issue of a policy: sign it again") from None
    _check(read.site, read.expires_at, site, now)
    return read


def _check(of: str, expires_at: str, site: str, now: datetime | None) -> None:
    if of != site:
        raise VerificationError("wrong_site", f"this is for site {of}, and the unit is of {site}: send its own")
    try:
        ended = now is not None and parse_time(expires_at) <= now
    except ValueError:
        raise VerificationError("malformed", "this ends at a moment that does not exist: sign it again") from None
    if ended:
        raise VerificationError("expired", "this has ended: have the site sign it again")
