# SPDX-License-Identifier: Apache-2.0
"""What a simulated unit says: a match of somebody whom nobody knows."""

from __future__ import annotations

import secrets
from datetime import datetime

from agent.clock import ClockState
from agent.match.records import Match
from agent.outbox.draft import Draft, make_match
from agent.protocol.pseudonym import epoch_of
from agent.protocol.subject import SUBJECT_BYTES, SubjectId

DIGEST = "sha256:" + "0" * 64
NOBODY = SubjectId(bytes(SUBJECT_BYTES))


def random_match(now: datetime, clock: ClockState) -> Draft:
    """A match of a random pseudonym."""
    return make_match(
        Match(NOBODY, "door", 0),
        subject=f"p1_{secrets.token_hex(16)}",
        audience="access",
        epoch=epoch_of(now),
        policy=DIGEST,
        model=DIGEST,
        now=now,
        clock=clock,
    )
