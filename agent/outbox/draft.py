# SPDX-License-Identifier: Apache-2.0
"""What happened, before it has a place in the chain."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from agent.clock import ClockState
from agent.match.records import Match
from agent.protocol.event import EVENT_TYPES, Condition, Kind, Lost
from agent.protocol.names import round_down


class Draft(msgspec.Struct, frozen=True):
    """What happened, before it has a place in the chain: ``facts`` are the fields of the kind's data."""

    kind: Kind
    time: str
    clock: ClockState
    facts: Mapping[str, Any]


def make_match(
    match: Match,
    *,
    subject: str,
    audience: str,
    epoch: str,
    policy: str,
    model: str,
    now: datetime,
    clock: ClockState,
    granted: tuple[str, ...] = (),
    time_step_s: int = 1,
) -> Draft:
    """Draft for a match that opened the outputs ``granted``.

    ``subject`` and ``epoch`` come from ``EpochKeys.pseudonym``, never the subject id itself.
    """
    facts: dict[str, Any] = {
        "subject": subject,
        "audience": audience,
        "epoch": epoch,
        "zone": match.zone,
        "method": match.method,
        "liveness": match.liveness,
        "policy": policy,
        "model": model,
    }
    if granted:
        facts["granted"] = " ".join(granted)
    return Draft("match", round_down(now, time_step_s), clock, facts)


def make_presence(
    *,
    state: Literal["arrived", "left"],
    subject: str,
    audience: str,
    epoch: str,
    zone: str,
    now: datetime,
    clock: ClockState,
    time_step_s: int = 1,
) -> Draft:
    facts = {"state": state, "subject": subject, "audience": audience, "epoch": epoch, "zone": zone}
    return Draft("presence", round_down(now, time_step_s), clock, facts)


def make_unit(condition: Condition, *, now: datetime, clock: ClockState, time_step_s: int = 1) -> Draft:
    """Draft for a statement about the unit itself; ``loss`` is the outbox's own to say."""
    if condition == "loss":
        raise ValueError("only the outbox knows what was lost")
    return Draft("unit", round_down(now, time_step_s), clock, {"condition": condition})


def make_loss(lost: Lost, *, now: datetime, clock: ClockState, time_step_s: int = 1) -> Draft:
    """Draft by which the outbox owns up to a gap."""
    facts = {"condition": "loss", "lost": msgspec.to_builtins(lost)}
    return Draft("unit", round_down(now, time_step_s), clock, facts)


def assemble(draft: Draft, *, source: str, boot: str, seq: int, prev: str) -> dict[str, Any]:
    """Build the event's members without ``sig``."""
    chain = {"event_type": draft.kind, "boot": boot, "seq": seq, "prev": prev, "clock": draft.clock}
    return {
        "specversion": "1.0",
        "type": EVENT_TYPES[draft.kind],
        "source": source,
        "id": f"{boot}-{seq}",
        "time": draft.time,
        "datacontenttype": "application/json",
        "data": {**draft.facts, **chain},
    }
