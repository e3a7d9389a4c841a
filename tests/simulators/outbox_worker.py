# SPDX-License-Identifier: Apache-2.0
"""A process that appends and drains until it is killed: ``python -m tests.simulators.outbox_worker FOLDER``.

For each line on standard input it forks a worker and says ``C pid``; when that has died, ``D``. The worker
says what it promised: ``A seq`` when ``append`` had returned, and ``P payload`` when a broker had the event,
before the acknowledgement reaches the outbox. Each line is one write, which a pipe takes whole or not at all.
"""

from __future__ import annotations

import os
import random
import sys
from datetime import datetime
from pathlib import Path

from agent.clock import SystemClock
from agent.keys import UnitKey
from agent.outbox.draft import Draft, make_unit
from agent.outbox.queue import Outbox
from agent.protocol.names import round_down

SOURCE = "/postern/hq/door-3"
DIGEST = "sha256:" + "5a" * 32


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def match(now: datetime) -> Draft:
    facts = {"subject": "p1_" + "ab" * 16, "audience": "access", "epoch": "2026-W47", "zone": "door"}
    facts |= {"method": "face", "liveness": "not_checked", "policy": DIGEST, "model": DIGEST}
    return Draft("match", round_down(now, 1), "synced", facts)


def work(folder: Path, key: UnitKey, seed: int) -> None:
    clock, rng = SystemClock(), random.Random(seed)
    outbox = Outbox(folder / "outbox.db", signer=key, source=SOURCE, clock=clock)
    while True:
        for _ in range(rng.randint(1, 4)):
            now = clock.now()
            draft = match(now) if rng.random() < 0.8 else make_unit("camera_back", now=now, clock="synced")
            say(f"A {outbox.append(draft)}")
        for row in outbox.pending(rng.randint(0, 6)):
            say(f"P {row.payload.decode()}")
            outbox.acked(row.seq)


def main(folder: Path) -> None:
    key = UnitKey.load(folder / "unit.key")
    for number, _ in enumerate(sys.stdin):
        worker = os.fork()
        if worker == 0:
            work(folder, key, number)
        say(f"C {worker}")
        os.waitpid(worker, 0)
        say("D")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
