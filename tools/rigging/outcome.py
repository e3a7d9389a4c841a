# SPDX-License-Identifier: Apache-2.0
"""What came of a scenario on a target, and whether that is what it promised."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.keys import DETERMINISTIC
from agent.outbox.event import MatchData, PresenceData, canonical
from agent.outbox.queue import Head
from agent.outbox.verify import VerifiedEvent
from tools.rigging.ledger import balance
from tools.rigging.scenario import Expected, ExpectMatch, ExpectPresence, Scenario

ALLOWED_REFUSALS = frozenset({"duplicate"})  # what QoS 1 may do; a verifier sees through it


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation and what came of it."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A verified event: ``at_s`` seconds after the camera's start, ``who`` by the site's key, ``size`` in bytes."""

    event: VerifiedEvent
    at_s: float
    who: str
    size: int


@dataclass(slots=True)
class Run:
    """Everything that a target saw. ``heads`` are None where the unit's disk cannot be read; so are the counts."""

    target: str
    slack_s: float = 0.0  # by which things may be late on this target: its time is not the scenario's own
    arrivals: list[Arrival] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    heads: list[Head] | None = None
    after: int = 0  # the unit's last event before the scenario
    embeddings: int | None = None
    disk_bytes: int | None = None
    log: list[str] = field(default_factory=list)
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


def judge(scenario: Scenario, run: Run) -> list[Check]:
    """Everything that a scenario promises, in the order in which a reader asks."""
    checks, taken = [], dict[int, list[Arrival]]()
    for arrival in run.arrivals:
        place = _place(scenario.expect, taken, arrival, run.slack_s)
        taken.setdefault(place, []).append(arrival)
    for number, expected in enumerate(scenario.expect):
        found = taken.get(number, [])
        least, most = expected.times
        shown = ", ".join(f"{one.at_s:.2f} s" for one in found) or "never"
        checks.append(Check(describe(expected), least <= len(found) <= most, shown))
    stray = [f"{spell(one)} at {one.at_s:.2f} s" for one in taken.get(_NOWHERE, [])]
    checks.append(Check("nothing else", not stray, "; ".join(stray) or "nothing"))
    checks += _delivery(run)
    checks += [Check(f"log: {words}", any(words in line for line in run.log), "") for words in scenario.log]
    fitting = run.ended is None if scenario.ends is None else scenario.ends in (run.ended or "")
    checks.append(Check("ends: " + (scenario.ends or "clean"), fitting, run.ended or "clean"))
    return checks + _budgets(scenario, run)


def describe(expected: Expected) -> str:
    """One line: what, who, how often, when."""
    least, most = expected.times
    often = "once" if (least, most) == (1, 1) else f"{least} to {most} times" if least != most else f"{least} times"
    kept = {None: "", True: ", on the backlog", False: ", live"}[expected.backlog]
    begin, end = expected.between
    when = "" if (begin, end) == (0.0, 600.0) else f" from {begin:g} to {end:g} s"
    return f"{_named(expected)} {often}{when}{kept}"


def spell(arrival: Arrival) -> str:
    """An event as an expectation would name it."""
    data = arrival.event.event.data
    if isinstance(data, MatchData):
        return f"match of {arrival.who}"
    if isinstance(data, PresenceData):
        return f"{arrival.who} {data.state}"
    return f"unit {data.condition}"


_NOWHERE = -1


def _named(expected: Expected) -> str:
    if isinstance(expected, ExpectMatch):
        return f"match of {expected.who}"
    if isinstance(expected, ExpectPresence):
        return f"{expected.who} {expected.state}"
    return f"unit {expected.condition}"


def _place(expect: Sequence[Expected], taken: Mapping[int, list[Arrival]], arrival: Arrival, slack_s: float) -> int:
    """The first expectation that this event fulfils and that still wants one."""
    for number, expected in enumerate(expect):
        begin, end = expected.between
        fits = _named(expected) == spell(arrival) and begin <= arrival.at_s + slack_s and arrival.at_s <= end + slack_s
        if not fits or len(taken.get(number, [])) >= expected.times[1]:
            continue
        if expected.backlog is None or expected.backlog == arrival.event.backlog:
            return number
    return _NOWHERE


def _delivery(run: Run) -> list[Check]:
    """Verified, once, in order, complete."""
    foreign = {reason: count for reason, count in run.refused.items() if reason not in ALLOWED_REFUSALS}
    resent = run.refused["duplicate"]
    checks = [Check("every event verified", not foreign, str(foreign) if foreign else f"{resent} sent twice and seen")]
    seqs = [one.event.event.data.seq for one in run.arrivals]
    checks.append(Check("in order", seqs == sorted(set(seqs)), f"{len(seqs)} events"))
    if run.heads is not None:
        books = balance(run.heads, [one.event for one in run.arrivals], after=run.after)
        found = f"signed {books.signed}, verified {books.verified}, owned up {books.owned_up}"
        checks.append(Check("what was signed arrived, once, unaltered", books.ok, found))
    return checks


def _budgets(scenario: Scenario, run: Run) -> list[Check]:
    budgets = scenario.budgets
    longest = max((one.size for one in run.arrivals), default=0)
    limits = (
        ("bytes of an event", longest, budgets.event_bytes),
        ("embeddings made", run.embeddings, budgets.embeddings),
        ("bytes on disk", run.disk_bytes, budgets.disk_bytes),
    )
    return [
        Check(f"at most {limit} {name}", found <= limit, str(found))
        for name, found, limit in limits
        if found is not None
    ]
