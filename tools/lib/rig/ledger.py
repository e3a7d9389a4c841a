# SPDX-License-Identifier: Apache-2.0
"""What a unit signed against what a subscriber verified."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.outbox.numbers import Head
from agent.protocol.event import UnitData
from agent.subscribe.verify import VerifiedEvent


@dataclass(frozen=True, slots=True)
class Balance:
    """``signed`` events by the unit's own head; ``lost`` never came; ``altered`` differ from what was signed.

    ``owned_up`` were removed by the unit itself and said so in a ``loss`` event; ``late`` came after a later one.
    """

    signed: int
    verified: int
    lost: int
    owned_up: int
    doubled: int
    altered: int
    late: int

    @property
    def ok(self) -> bool:
        """Everything signed was verified, once and as it was signed."""
        return self.lost == self.doubled == self.altered == 0


def balance(heads: Sequence[Head], events: Iterable[VerifiedEvent], *, after: int = 0) -> Balance:
    """Compare the heads that a unit's outbox had over time, the last one at its end, with what was accepted.

    A head is the number and digest of the newest event, and each event names the digest of the one before: a history
    that agrees with the last head is the one that was signed, and the earlier heads show that it was never rewritten.
    Events up to ``after`` are an earlier matter.
    """
    known: dict[int, VerifiedEvent] = {}
    doubled = owned_up = late = 0
    for one in events:
        seq = one.event.data.seq
        doubled += seq in known
        known[seq] = one
        late += one.late
        if isinstance(one.event.data, UnitData) and one.event.data.lost is not None:
            owned_up += one.event.data.lost.count
    last = max((head.seq for head in heads), default=0)
    missing = sum(seq not in known for seq in range(after + 1, last + 1))
    altered = sum(head.seq in known and known[head.seq].digest != head.digest for head in heads if head.seq)
    altered += sum(
        seq - 1 in known and known[seq - 1].digest != one.event.data.prev for seq, one in known.items() if seq > 1
    )
    return Balance(
        signed=last - after,
        verified=len(known),
        lost=missing - owned_up,
        owned_up=owned_up,
        doubled=doubled,
        altered=altered,
        late=late,
    )
