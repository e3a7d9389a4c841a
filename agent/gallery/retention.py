# SPDX-License-Identifier: Apache-2.0
"""When a reference has to go by itself: its consent has ended, or it was not used for too long."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

import msgspec

from agent.errors import ConfigError
from agent.gallery.consent import MAX_CONSENT_DAYS

DueReason = Literal["expired", "unused"]

DEFAULT_DAYS = 365


class Retention(msgspec.Struct, frozen=True):
    """How long a reference may lie unused, in days since the last match or, before any, since enrolment."""

    unused_days: int = DEFAULT_DAYS

    def __post_init__(self) -> None:
        if not 1 <= self.unused_days <= MAX_CONSENT_DAYS:
            raise ConfigError(f"retention_days is {self.unused_days}: set 1 to {MAX_CONSENT_DAYS} days")


class Deadline(msgspec.Struct, frozen=True):
    """What the sweep needs to know about one reference."""

    expires_at: datetime
    last_used_on: date  # UTC; to the day, because more precise would be a log of movements


def due(deadline: Deadline, *, now: datetime, retention: Retention) -> DueReason | None:
    """Why the reference must go at ``now``, or None while it may stay."""
    if now >= deadline.expires_at:
        return "expired"
    if (now.date() - deadline.last_used_on).days >= retention.unused_days:
        return "unused"
    return None
