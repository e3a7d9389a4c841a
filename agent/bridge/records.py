# SPDX-License-Identifier: Apache-2.0
"""What every output is handed: one flat record for each thing that the verifying core says.

``key`` tells a record from all others, for ever: whoever gets it twice drops the second. An event's is its CloudEvents
source and id. Gaps, losses and refusals are records like events, so that no output looks whole that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from agent.protocol.event import MatchData, PresenceData, UnitData
from agent.protocol.names import MAX_NAME
from agent.subscribe.chain import Gap
from agent.subscribe.subscriber import Handed, Refusal
from agent.subscribe.verify import Loss, VerifiedEvent

RecordKind = Literal["match", "presence", "unit", "gap", "loss", "refusal", "notice", "withdrawn"]

MAX_TEXT = 1000  # characters of a sentence: what others send must not make a record that no output takes


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What is stored and sent; what does not apply is left out. Times are UTC.

    ``event`` is the signed event as it came. ``fresh``: of this moment when it was taken; ``late``: it fills a gap;
    ``repeat``: it may have been taken before. ``first`` to ``last``: the numbers of a gap or a loss, of
    which ``count`` are missing; also of a loss that the unit itself owns up to, which is its event.
    """

    kind: RecordKind
    unit: str | None = None
    time: str | None = None
    seq: int | None = None
    condition: str | None = None
    zone: str | None = None
    subject: str | None = None
    liveness: str | None = None
    clock: str | None = None
    fresh: bool = False
    backlog: bool = False
    late: bool = False
    repeat: bool = False
    first: int | None = None
    last: int | None = None
    count: int | None = None
    reason: str | None = None
    text: str | None = None
    person: str | None = None
    event: dict[str, Any] | None = None


class Record(msgspec.Struct, frozen=True):
    """A stored body: ``number`` rises with each, ``taken_s`` is when it was taken, in seconds since 1970.

    ``age_s`` is how long ago that was when the record was read, by the running clock; None where nobody knows.
    """

    number: int
    key: str
    taken_s: int
    body: Body
    age_s: float | None = None


def records_of(handed: Handed, site: str, *, serial: Callable[[], str]) -> Iterator[tuple[str, Body]]:
    """Key and body of all that one outcome says; ``serial`` makes the key of what has none of its own."""
    if isinstance(handed, Refusal):
        unit = [*handed.topic.split("/"), "", "", ""][2] or None
        text, unit = handed.message[:MAX_TEXT], unit and unit[:MAX_NAME]
        yield f"refusal-{serial()}", Body(kind="refusal", unit=unit, reason=handed.reason, text=text)
    elif isinstance(handed, Loss):
        gap = handed.gap
        key = f"/postern/{site}/{handed.unit}#loss-{gap.first}-{gap.last}"
        yield key, Body(kind="loss", unit=handed.unit, first=gap.first, last=gap.last, count=handed.count)
    else:
        if handed.gap is not None:
            yield f"{handed.event.source}#gap-{handed.gap.first}-{handed.gap.last}", _gap(handed.unit, handed.gap)
        yield f"{handed.event.source}#{handed.event.id}", _event(handed)


def notice(text: str, *, serial: str) -> tuple[str, Body]:
    return f"notice-{serial}", Body(kind="notice", text=text[:MAX_TEXT])


def withdrawn(person: str, *, serial: str) -> tuple[str, Body]:
    """Somebody is known here no more: whoever keeps the name erases it."""
    return f"withdrawn-{serial}", Body(kind="withdrawn", person=person)


def _gap(unit: str, gap: Gap) -> Body:
    return Body(kind="gap", unit=unit, first=gap.first, last=gap.last, count=gap.count)


def _event(verified: VerifiedEvent) -> Body:
    event = verified.event
    data = event.data
    about = data if isinstance(data, MatchData | PresenceData) else None
    lost = data.lost if isinstance(data, UnitData) else None
    return Body(
        kind=verified.kind,
        unit=verified.unit,
        time=event.time,
        seq=data.seq,
        condition=data.state if isinstance(data, PresenceData) else getattr(data, "condition", None),
        zone=about.zone if about else None,
        subject=about.subject if about else None,
        liveness=data.liveness if isinstance(data, MatchData) else None,
        clock=data.clock,
        fresh=verified.fresh,
        backlog=verified.backlog,
        late=verified.late,
        repeat=verified.repeat,
        first=lost.first if lost else None,
        last=lost.last if lost else None,
        count=lost.count if lost else None,
        reason=lost.reason if lost else None,
        event=msgspec.to_builtins(event),
    )
