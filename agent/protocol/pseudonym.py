# SPDX-License-Identifier: Apache-2.0
"""Who an event speaks of, without saying who.

A pseudonym is HMAC-SHA-256(K[site, audience, epoch], "postern/subject/v1" ‖ length ‖ subject id),
truncated to 128 bit (RFC 2104 sec. 5 allows half). Who does not hold K cannot link it to a person, to
another epoch or to another audience; who holds K can, for that one epoch. A unit holds the keys of
the current and the next two epochs only: a thief cannot recompute what it said before.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import msgspec

from agent.errors import KeyStoreError
from agent.keys import decode_base64url
from agent.parse.strict_json import convert
from agent.protocol.names import Epoch, Name

LABEL = b"postern/subject/v1"
PSEUDONYM_BYTES = 16  # half of SHA-256's output: the least that RFC 2104 sec. 5 recommends
EPOCHS_AHEAD = 2  # an outage of two weeks needs no visit; more would weaken what a thief cannot know
MAX_SUBJECT_BYTES = 255  # subject ids have 16 bytes; the length prefix has one


class EpochKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key of one audience at one site for one epoch, as the site kit issues it."""

    site: Name
    audience: Name
    epoch: Epoch
    key: Annotated[str, msgspec.Meta(min_length=43, max_length=43)]  # 32 bytes, base64url

    def __repr__(self) -> str:
        return f"EpochKey(site={self.site!r}, audience={self.audience!r}, epoch={self.epoch!r})"

    def secret(self) -> bytearray:
        """Return the 32 bytes, in a buffer that can be overwritten; KeyStoreError when they are damaged."""
        try:
            return bytearray(decode_base64url(self.key))
        except ValueError:
            raise KeyStoreError(f"the key of epoch {self.epoch} is damaged: issue the epoch keys again") from None


def epoch_of(moment: datetime) -> str:
    """ISO 8601 week of a moment in UTC, like ``2026-W47``."""
    year, week, _ = moment.astimezone(UTC).isocalendar()
    return f"{year:04d}-W{week:02d}"


def is_epoch(text: str) -> bool:
    """Whether ``text`` names an ISO 8601 week that exists: most years have no week 53."""
    try:
        year, week = convert(text, Epoch).split("-W")
        date.fromisocalendar(int(year), int(week), 1)
    except ValueError:  # msgspec.ValidationError is one
        return False
    return True


def epochs_from(moment: datetime, ahead: int = EPOCHS_AHEAD) -> tuple[str, ...]:
    """List the epoch of ``moment`` and the ``ahead`` following ones."""
    return tuple(epoch_of(moment + timedelta(weeks=n)) for n in range(ahead + 1))


def epoch_before(epoch: str, weeks: int) -> str:
    """Return the epoch so many weeks before one that exists."""
    return epoch_of(end_of(epoch) - timedelta(weeks=weeks + 1))


def end_of(epoch: str) -> datetime:
    """Return the moment at which an epoch that exists is over."""
    year, week = (int(part) for part in epoch.split("-W"))
    begins = date.fromisocalendar(year, week, 1)
    return datetime(begins.year, begins.month, begins.day, tzinfo=UTC) + timedelta(weeks=1)


def pseudonym(key: bytes | bytearray, subject: bytes) -> bytes:
    """16 bytes that stand for ``subject`` under one epoch key."""
    if not 0 < len(subject) <= MAX_SUBJECT_BYTES:
        raise ValueError(f"a subject id has 1 to {MAX_SUBJECT_BYTES} bytes")
    return hmac.digest(key, LABEL + bytes([len(subject)]) + subject, "sha256")[:PSEUDONYM_BYTES]


def spell(value: bytes) -> str:
    """Spell a pseudonym as in an event: ``p1_`` and 32 hexadecimal digits."""
    return "p1_" + value.hex()


class Resolver:
    """Turns the pseudonyms of one audience and epoch back into subject ids, for the holder of that epoch's key."""

    def __init__(self, key: EpochKey, subjects: Iterable[bytes]) -> None:
        self._key = key
        secret = key.secret()
        self._subjects = {spell(pseudonym(secret, subject)): subject for subject in subjects}

    def resolve(self, name: str, *, audience: str, epoch: str) -> bytes | None:
        """Return the subject id behind a pseudonym, or None for a subject that is not on the list.

        Raises KeyStoreError when the pseudonym belongs to another audience or epoch than this key.
        """
        if (audience, epoch) != (self._key.audience, self._key.epoch):
            raise KeyStoreError(
                f"this key resolves audience {self._key.audience!r} in epoch {self._key.epoch} alone:"
                " ask the site for the key of the event's own epoch"
            )
        return self._subjects.get(name)
