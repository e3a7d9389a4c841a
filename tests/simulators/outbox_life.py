# SPDX-License-Identifier: Apache-2.0
"""A short life of an outbox, to be recorded: ``python -m tests.simulators.outbox_life FOLDER``.

Marks: ``A seq digest`` once an event was promised; ``P seq lost`` once a broker has it, with the number of lost events
that it owns up to.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agent.clock import SimulatedClock
from agent.keys import UnitKey
from agent.outbox.draft import make_unit
from agent.outbox.queue import TIDY_EVERY_S, Outbox
from tests.simulators.power import mark

SOURCE = "/postern/hq/door-3"
MAX_ROWS = 12


def lost_in(payload: bytes) -> int:
    """How many lost events this one owns up to."""
    lost = json.loads(payload)["data"].get("lost")
    return lost["count"] if lost else 0


def main(folder: Path) -> None:
    clock = SimulatedClock()
    key = UnitKey.load(folder.parent / "unit.key")

    def open_outbox() -> Outbox:
        return Outbox(folder / "outbox.db", signer=key, source=SOURCE, clock=clock, max_rows=MAX_ROWS)

    def append(outbox: Outbox, owner: bytes | None = None) -> None:
        outbox.append(make_unit("camera_back", now=clock.now(), clock="synced"), owner=owner)
        mark("A {} {}".format(*outbox.head()))

    def deliver(outbox: Outbox, count: int) -> None:
        for row in outbox.pending(count):
            mark(f"P {row.seq} {lost_in(row.payload)}")
            outbox.acked(row.seq)

    with open_outbox() as outbox:
        for _ in range(4):
            append(outbox)
        deliver(outbox, 3)
        append(outbox, b"alice")
        outbox.parked(outbox.pending(1)[0].seq, "not_authorised")
        append(outbox)
        outbox.erase(b"alice")
    with open_outbox() as outbox:
        for _ in range(MAX_ROWS + 3):
            append(outbox)
        deliver(outbox, 100)
        clock.advance(TIDY_EVERY_S + 1)
        append(outbox)
        deliver(outbox, 100)
        append(outbox)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
