# SPDX-License-Identifier: Apache-2.0
"""What an output is, and what every output is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from agent.bridge.people import Person
from agent.bridge.records import Record
from agent.bridge.settings import UNCHECKED

ACT_WITHIN_S = (
    10  # a match is for a door or a light so long after it was taken; the Home Assistant example says the same
)


class Sent(msgspec.Struct):
    """What became of a batch: everything ``through`` this number is done with, ``dead`` of it will never be taken.

    ``problem`` is one sentence on why the rest has to wait; without one the rest is offered again at once.
    """

    through: int = 0
    dead: list[tuple[Record, str]] = msgspec.field(default_factory=list)
    problem: str | None = None


class Item(msgspec.Struct, frozen=True):
    """A record, and who it is about where this output may know."""

    record: Record
    person: Person | None


BATCH_NS = 2_000_000_000  # one ``send`` of several steps ends after this: by then it is another moment


class Output(Protocol):
    """One thread calls all of it. ``send`` and ``idle`` raise nothing but PosternError."""

    batch: int  # records for one ``send``
    private: bool  # nobody on the way reads what is sent, and who takes it is verified

    def send(self, items: Sequence[Item], now_s: int) -> Sent:
        """Hand over in order; what was handed over before comes again after a crash, with the same key."""

    def idle(self, now_s: int) -> None:
        """Do what is due while nothing comes."""

    def close(self) -> None: ...


def is_of_this_moment(record: Record, now_s: int) -> bool:
    """Whether an automation may act on it: late, repeated and waiting records are history.

    Both clocks have to say so: the one that can be set, and the running one, which knows nothing of before the start.
    """
    body, age_s = record.body, record.age_s
    recent = age_s is not None and age_s <= ACT_WITHIN_S and 0 <= now_s - record.taken_s <= ACT_WITHIN_S
    return recent and body.fresh and not body.repeat


def may_open(record: Record, now_s: int, words: str | None) -> bool:
    """Whether a door may open for it: of this moment, and of a living person or where words accept less."""
    body = record.body
    living = body.liveness == "passed" or words == UNCHECKED
    return body.kind == "match" and living and is_of_this_moment(record, now_s)


def told(item: Item, now_s: int, words: str | None) -> dict[str, Any]:
    """What an output says of an item: the record's members, its key, who it was, and whether to act on it."""
    record = item.record
    content: dict[str, Any] = {"key": record.key, "taken_s": record.taken_s, **msgspec.to_builtins(record.body)}
    content |= {"act": is_of_this_moment(record, now_s), "may_open": may_open(record, now_s, words)}
    if item.person is not None:
        content |= {"person": item.person.name, "title": item.person.title}
    return content
