# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in whatever order: no number twice, nothing lost unsaid, and a subscriber can tell."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.outbox.queue import Row
from tests.simulators.signing_unit import SigningUnit, match_draft, presence_draft, unit_draft, verifier_of

DRAFTS = {"match": match_draft, "presence": presence_draft, "unit": unit_draft}
MAX_ROWS = 6


class OutboxMachine(RuleBasedStateMachine):
    """Appends, acknowledgements in any order, parking, erasure, time and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="postern-outbox-"))
        self.unit = SigningUnit(self.folder / "outbox.db", max_rows=MAX_ROWS)
        self.verifier = verifier_of(self.unit)
        self.digests: dict[int, str] = {}
        self.delivered: set[int] = set()
        self.admitted = 0
        self.deliver(self.unit.say(unit_draft(self.unit.clock)))  # a subscriber that has heard of this unit

    def teardown(self) -> None:
        self.unit.clock.advance(100_000)
        while rows := self.unit.outbox.pending(100):
            for row in rows:
                self.deliver(row)
        assert self.verifier.missing("door-3") == ()
        assert len(self.delivered) + self.admitted == self.unit.outbox.head().seq
        self.unit.outbox.close()
        shutil.rmtree(self.folder)

    def deliver(self, row: Row) -> None:
        verified = self.verifier.check(self.unit.topic(row, "backlog"), row.payload, self.unit.clock.now())
        lost = getattr(verified.event.data, "lost", None)
        self.admitted += lost.count if lost else 0
        self.delivered.add(row.seq)
        self.unit.outbox.acked(row.seq)

    def waiting(self) -> list[Row]:
        return self.unit.outbox.pending(100)

    @rule(kind=st.sampled_from(sorted(DRAFTS)), owner=st.sampled_from([None, b"alice", b"bob"]))
    def append(self, kind: str, owner: bytes | None) -> None:
        before = self.unit.outbox.head().seq
        seq = self.unit.outbox.append(DRAFTS[kind](self.unit.clock), owner=owner)
        assert seq == before + 1

    @precondition(lambda self: self.waiting())
    @rule(pick=st.integers(0, 20))
    def deliver_one(self, pick: int) -> None:
        rows = self.waiting()
        self.deliver(rows[pick % len(rows)])

    @rule()
    def deliver_all(self) -> None:
        for row in self.waiting():
            self.deliver(row)

    @precondition(lambda self: self.waiting())
    @rule(pick=st.integers(0, 20))
    def park(self, pick: int) -> None:
        rows = self.waiting()
        row = rows[pick % len(rows)]
        self.unit.outbox.parked(row.seq, "not_authorised")
        assert row.seq not in [other.seq for other in self.waiting()]

    @rule(owner=st.sampled_from([b"alice", b"bob"]))
    def erase(self, owner: bytes) -> None:
        self.unit.outbox.erase(owner)
        assert self.unit.outbox.erase(owner) == 0

    @rule(seconds=st.integers(1, 4000))
    def pass_time(self, seconds: int) -> None:
        self.unit.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.unit.restart()

    @invariant()
    def rows_are_in_order_and_never_change(self) -> None:
        rows = self.waiting()
        assert [row.seq for row in rows] == sorted({row.seq for row in rows})
        for row in rows:
            signature = json.loads(row.payload)["sig"]
            assert self.digests.setdefault(row.seq, signature) == signature
            assert row.seq not in self.delivered

    @invariant()
    def queue_is_bounded(self) -> None:
        assert self.unit.outbox.depth() <= MAX_ROWS + 2  # one report for each reason


OutboxMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestOutboxMachine = OutboxMachine.TestCase
