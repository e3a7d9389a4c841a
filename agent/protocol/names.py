# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of the wire: how each kind of name, digest and time is spelt, in one place."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from agent.errors import RefusedError, printable
from agent.parse.strict_json import MAX_SAFE_INTEGER, convert

TOPIC_ROOT = "postern"
BOARD_ROOT = "postern-site"  # what the site's service tells all of its programs
JOINING_ROOT = "postern-join"  # beside it, so that no rule for units reaches there
JOINING_SUFFIX = ".join"  # of the name in an invitation's certificate: with a dot it is nobody else's
# '(?!\n)' because '$' alone allows a final line feed.
_END = r"$(?!\n)"
MAX_NAME = 64  # characters; the longest CN that X.509 allows (RFC 5280, ub-common-name)
NAME_PATTERN = rf"^[a-z0-9-]{{1,{MAX_NAME}}}" + _END  # fit for a topic level and a certificate's CN
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
# One to eight names with a blank between them; a text, because an event holds no list.
Granted = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}( [a-z0-9-]{1,64}){0,7}" + _END)]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}" + _END)]
Boot = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}" + _END)]
Epoch = Annotated[str, Meta(pattern=r"^[0-9]{4}-W[0-9]{2}" + _END)]  # ISO 8601 week
Seconds = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]  # since 1970, UTC
Sequence = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]
# p1_: pseudonym, 128 bit. s1_: sealed, 32 bytes X25519 share and 16 bytes with their 16-byte tag.
Subject = Annotated[str, Meta(pattern=r"^(p1_[0-9a-f]{32}|s1_[A-Za-z0-9_-]{86})" + _END)]
Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z" + _END)]
Source = Annotated[str, Meta(pattern=r"^/postern/[a-z0-9-]{1,64}/[a-z0-9-]{1,64}" + _END)]
EventId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}-[1-9][0-9]{0,15}" + _END)]
# 64 bytes of ES256 are 86 characters; the header of alg, kid and typ has about 120.
Signature = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,512}\.\.[A-Za-z0-9_-]{86}" + _END)]


# No hour 24, which newer versions of Python read as the next day.
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}Z" + _END)


def round_down(now: datetime, step_s: int) -> str:
    """UTC time in whole steps of ``step_s`` seconds, so that it says no more than the purpose needs."""
    seconds = int(now.timestamp())
    return datetime.fromtimestamp(seconds - seconds % step_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """Read a ``Time``; ValueError when there is no such moment."""
    if _MOMENT.match(text) is None:
        raise ValueError("this is not spelt as a moment is")
    return datetime.fromisoformat(text)  # which alone reads many other spellings


class NoticeId(NamedTuple):
    """Which notice hangs at a unit: its version and the digest of its terms, as a consent record names them."""

    version: str
    digest: str


def check_name(what: str, name: str) -> str:
    """Return a name that can stand in a topic and a CN; RefusedError otherwise."""
    try:
        return convert(name, Name)
    except msgspec.ValidationError:
        raise RefusedError(
            f"the {what} name '{printable(name)}' is not usable: take 1 to {MAX_NAME} of a-z, 0-9 and '-'"
        ) from None
