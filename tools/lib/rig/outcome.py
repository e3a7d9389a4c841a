# SPDX-License-Identifier: Apache-2.0
"""What came of a scenario on a target."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from agent.keys import DETERMINISTIC
from agent.outbox.numbers import Head
from agent.protocol.event import MatchData, PresenceData, canonical
from agent.subscribe.verify import VerifiedEvent
from tools.lib.rig.board import Pulse


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what came of it; ``ok`` is None where this target cannot tell."""

    name: str
    ok: bool | None
    found: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified event: ``at_s`` seconds after the camera's start, ``who`` by the site's key, ``size`` in bytes."""

    event: VerifiedEvent
    at_s: float
    who: str
    size: int

    @property
    def seq(self) -> int:
        return self.event.event.data.seq

    @property
    def pseudonym(self) -> str | None:
        """The subject as the event names it; None when it is about nobody."""
        data = self.event.event.data
        return data.subject if isinstance(data, MatchData | PresenceData) else None


@dataclass(slots=True)
class Measured:
    """What a scenario cost: counts, bytes, MiB. None is what this target cannot measure."""

    embeddings: int | None = None
    disk_bytes: int | None = None
    memory_mib: int | None = None
    together_mib: int | None = None
    threads: int | None = None
    open_files: int | None = None


@dataclass(slots=True)
class Run:
    """Everything that a target saw. ``heads`` and ``log`` are None where the unit's disk and log cannot be read."""

    target: str
    slack_s: float = 0.0  # by which things may be late on this target: its time is not the scenario's own
    silent: str | None = None  # why nothing could be heard of the unit: there is nothing more to judge then
    arrivals: list[Arrival] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    heads: list[Head] | None = None
    pulses: list[Pulse] | None = None  # of the board, seconds after the camera's start
    answers: list[str] | None = None  # to the questions, as the unit signed them
    after: int = 0  # the unit's last event before the scenario
    measured: Measured = field(default_factory=Measured)
    log: list[str] | None = None
    status: int | None = None  # of the unit's process, where there is one
    ended: str | None = None  # the sentence with which the unit refused to go on
    seconds: float = 0.0  # of this machine's time

    def same_as(self, other: Run) -> Check:
        """Whether another run sent the same bytes to the same topics.

        Where the library does not sign by RFC 6979 the signatures are left out of the comparison.
        """
        mine, theirs = self._comparable(), other._comparable()
        differing = next(
            (n for n, pair in enumerate(zip(mine, theirs, strict=False), start=1) if len(set(pair)) > 1), 0
        )
        same = mine == theirs
        what = "signatures included" if DETERMINISTIC else "without signatures"
        found = f"{len(mine)} messages, {what}" if same else f"{len(mine)} and {len(theirs)}; first at {differing}"
        return Check("the same bytes again", same, found)

    def _comparable(self) -> list[tuple[str, bytes]]:
        if DETERMINISTIC:
            return self.messages
        return [(topic, canonical(json.loads(payload))) for topic, payload in self.messages]


def spell(arrival: Arrival) -> str:
    """An event as an expectation would name it."""
    data = arrival.event.event.data
    if isinstance(data, MatchData):
        return f"match of {arrival.who}" + ("" if data.granted is None else f", granted {data.granted}")
    if isinstance(data, PresenceData):
        return f"{arrival.who} {data.state}"
    return f"unit {data.condition}"
