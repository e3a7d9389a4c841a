# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write: what was promised is there or was delivered, and no number comes twice.

A real life of an outbox is recorded write by write and cut after each of them, with what was not yet fsynced
kept, lost or torn. POSTERN_EXHAUSTIVE=1 tries every step with more mixtures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.keys import UnitKey
from agent.outbox.draft import make_unit
from agent.outbox.queue import Outbox
from agent.protocol.event import canonical, digest
from tests.simulators.outbox_life import MAX_ROWS, SOURCE, lost_in
from tests.simulators.power import Crash, crashes, record

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"


@pytest.mark.timeout(600 if EXHAUSTIVE else 120)
def test_power_cut_at_any_write_loses_no_promised_event_and_reuses_no_number(work: Path) -> None:
    key = UnitKey.generate()
    key.save(work / "unit.key")
    living = work / "living"
    living.mkdir()
    steps = record(["-m", "tests.simulators.outbox_life", str(living)], living, work)
    assert len([step for step in steps if step.op == "fsync"]) > 20, (
        "the record shows no fsync: is the recorder loaded?"
    )
    every, torn = (1, 6) if EXHAUSTIVE else (5, 1)
    tried = 0
    for crash in crashes(steps, seed=1, every=every, torn=torn):
        crash.restore(work / "crashed")
        check(crash, work / "crashed", key)
        tried += 1
    assert tried > 50


def check(crash: Crash, folder: Path, key: UnitKey) -> None:
    words = [mark.split() for mark in crash.marks]
    promised = {int(seq): name for word, seq, name in words if word == "A"}
    delivered = {int(seq): int(lost) for word, seq, lost in words if word == "P"}
    clock = SimulatedClock()
    with Outbox(folder / "outbox.db", signer=key, source=SOURCE, clock=clock, max_rows=MAX_ROWS) as outbox:
        highest = max([*promised, *delivered, 0])
        assert outbox.head().seq >= highest, crash.kind
        while rows := outbox.pending(100):
            for row in rows:
                members = json.loads(row.payload)
                assert digest(canonical(members)) == promised.get(row.seq, digest(canonical(members))), crash.kind
                delivered[row.seq] = lost_in(row.payload)
                outbox.acked(row.seq)
        head = outbox.head().seq
        vanished = set(range(1, head + 1)) - set(delivered)
        assert len(vanished) == sum(delivered.values()), (crash.step, crash.kind, vanished, delivered)
        assert outbox.append(make_unit("started", now=clock.now(), clock="synced")) == head + 1
