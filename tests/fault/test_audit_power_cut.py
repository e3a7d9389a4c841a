# SPDX-License-Identifier: Apache-2.0
"""The power may fail at any write of the audit log: what was acknowledged is there, and the chain holds."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from agent.audit.chain import AuditHead, read_entries
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from tests.simulators.auditor import audited
from tests.simulators.power import crashes, record

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"

LIFE = """
import secrets, sys
from pathlib import Path
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from tests.simulators.power import mark

path = Path(sys.argv[1]) / "audit.jsonl"
log = AuditLog(path, clock=SimulatedClock(), random=secrets.token_bytes, max_file_bytes=2500)
for number in range(24):
    subject = bytes([number % 3 + 65]) * 16
    mark(f"begin {subject.hex()}")
    head = log.append("enrolled", {"number": number}, subject=subject)
    mark(f"head {head.seq} {head.digest} {subject.hex()}")
    if number % 7 == 6:
        mark(f"forget {subject.hex()}")
        log.forget(subject)
        mark(f"forgot {subject.hex()}")
"""


def test_power_cut_at_any_write_keeps_the_chain(work: Path) -> None:
    living, crashed = work / "living", work / "crashed"
    living.mkdir()
    steps = record(["-c", LIFE, str(living)], living, work)
    assert len([s for s in steps if s.op == "write"]) > 30, "the record shows no writes: is the recorder loaded?"
    tried = 0
    for crash in crashes(steps, seed=2, every=1 if EXHAUSTIVE else 3, torn=4 if EXHAUSTIVE else 1):
        where = f"step {crash.step}, {crash.kind}"
        crash.restore(crashed)
        head, parts, forgotten = AuditHead(0, ""), [], set()
        for event, *values in (text.split(" ") for text in crash.marks):
            if event == "head":
                head = AuditHead(int(values[0]), values[1])
                parts.append(values[2])
            elif event == "begin":
                forgotten.discard(values[0])
            elif event == "forget":
                parts = [part for part in parts if part != values[0]]
            else:
                forgotten.add(values[0])
        on_disk = b"".join(file.read_bytes() for file in crashed.rglob("*") if file.is_file())
        log = AuditLog(crashed / "audit.jsonl", clock=SimulatedClock(), random=secrets.token_bytes, max_file_bytes=2500)
        report = audited(log, head if head.seq else None)
        entries = list(read_entries(crashed / "audit.jsonl"))
        assert head.seq <= report.head.seq <= head.seq + 2, where  # one that was under way, and one about healing
        assert {e.kind for e in entries} <= {"enrolled", "log_healed"}, where
        assert report.personal >= len(parts), where
        assert not [s for s in forgotten if s.encode() in on_disk], where
        assert log.append("started").seq == report.head.seq + 1, where
        audited(log)
        log.close()
        tried += 1
    assert tried > 60
