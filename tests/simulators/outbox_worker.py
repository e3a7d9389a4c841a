# SPDX-License-Identifier: Apache-2.0
"""A process that appends and drains until it is killed: ``python -m tests.simulators.outbox_worker FOLDER``.

It says on standard output what it promised: ``A seq`` when ``append`` had returned, and ``P payload`` when a
broker had the event, before the acknowledgement reaches the outbox.
"""

from __future__ import annotations

import random
import sys
from datetime import datetime
from pathlib import Path

from agent.clock import SystemClock
from agent.keys import UnitKey
from agent.outbox.event import Draft, make_unit, round_down
from agent.outbox.queue import Outbox

SOURCE = "/postern/hq/door-3"
DIGEST = "sha256:" + "5a" * 32


def match(now: datetime) -> Draft:
    facts = {"subject": "p1_" + "ab" * 16, "audience": "access", "epoch": "2026-W47", "zone": "door"}
    facts |= {"method": "face", "liveness": "not_checked", "policy": DIGEST, "model": DIGEST}
    return Draft("match", round_down(now, 1), "synced", facts)


def main(folder: Path) -> None:
    clock = SystemClock()
    key = UnitKey.load(folder / "unit.key")
    outbox = Outbox(folder / "outbox.db", signer=key, source=SOURCE, clock=clock)
    sys.stdout.write("R\n")
    sys.stdout.flush()
    while True:
        for _ in range(random.randint(1, 4)):
            draft = (
                match(clock.now())
                if random.random() < 0.8
                else make_unit("camera_back", now=clock.now(), clock="synced")
            )
            sys.stdout.write(f"A {outbox.append(draft)}\n")
            sys.stdout.flush()
        for row in outbox.pending(random.randint(0, 6)):
            sys.stdout.write(f"P {row.payload.decode()}\n")
            sys.stdout.flush()
            outbox.acked(row.seq)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
