# SPDX-License-Identifier: Apache-2.0
"""Whether the demo went as it must, and what it cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from agent.protocol.event import MatchData
from agent.protocol.pseudonym import EpochKey, Resolver
from agent.subscribe.subscriber import Handed, Refusal
from agent.subscribe.verify import VerifiedEvent

_STAGE = re.compile(r"stage (\w+): (\d+) times, p50 (\d+) us, p95 (\d+) us")
_RATE = re.compile(r"(\d+) frames in ([0-9.]+) s")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``matched`` are the people behind the verified matches, resolved with the site's key, in order.

    ``said`` is what each event told, and how many seconds after the unit's ``started``.
    """

    expected: list[str]
    matched: list[str]
    unexpected: list[str]
    refused: int
    stages: dict[str, dict[str, int]]
    frames_per_second: float
    said: list[tuple[float, str]]

    @property
    def ok(self) -> bool:
        """Each enrolled person matched exactly once, in the scene's order, and nothing else arrived."""
        return self.matched == self.expected and not self.unexpected and not self.refused


def judge(
    received: list[Handed],
    subjects: dict[str, str],
    log: str,
    *,
    key: Callable[[str, str], EpochKey],
) -> Outcome:
    """Resolve the pseudonyms as the key holder may, and compare with who was to come."""
    people = {bytes.fromhex(subject): person for person, subject in subjects.items()}
    matched: list[str] = []
    unexpected: list[str] = []
    said: list[tuple[float, str]] = []
    began: datetime | None = None
    for event in (one for one in received if isinstance(one, VerifiedEvent)):
        data = event.event.data
        if isinstance(data, MatchData):
            resolver = Resolver(key(data.audience, data.epoch), people)
            subject = resolver.resolve(data.subject, audience=data.audience, epoch=data.epoch)
            matched.append(people.get(subject or b"", "somebody unknown"))
        condition = getattr(data, "condition", None)
        began = event.event.moment if condition == "started" else began
        after_s = 0.0 if began is None else (event.event.moment - began).total_seconds()
        said.append(
            (after_s, f"{matched[-1]} was matched" if isinstance(data, MatchData) else f"the unit: {condition}")
        )
        if isinstance(data, MatchData):
            continue
        if condition not in {"started", "stopping"}:
            unexpected.append(event.kind)
    stages = {
        name: {"count": int(count), "p50": int(p50), "p95": int(p95)} for name, count, p50, p95 in _STAGE.findall(log)
    }
    rate = _RATE.search(log)
    return Outcome(
        expected=list(subjects),
        matched=matched,
        unexpected=unexpected,
        refused=sum(isinstance(one, Refusal) for one in received),
        stages=stages,
        frames_per_second=int(rate[1]) / float(rate[2]) if rate else 0.0,
        said=said,
    )


def stage_times(outcome: Outcome) -> list[str]:
    """Rows of a small table: how often each stage ran, and how long it took."""
    rows = [f"{'stage':<9} {'times':>6} {'p50 ms':>8} {'p95 ms':>8}"]
    for name, one in outcome.stages.items():
        rows.append(f"{name:<9} {one['count']:>6} {one['p50'] / 1000:>8.2f} {one['p95'] / 1000:>8.2f}")
    return rows


def what_is_where(folder: Path) -> list[str]:
    """What the demo left behind."""
    return [
        f"{folder}/site       the site kit's folder: keys, certificates, access list, audit log",
        f"{folder}/unit       the unit: configuration, keys, encrypted gallery, outbox, audit log",
        f"{folder}/broker     the broker's configuration and log",
        f"{folder}/unit.log   what the unit logged",
    ]
