# SPDX-License-Identifier: Apache-2.0
"""The service with a stopwatch: notes when a match's frame was exposed, queued and acknowledged.

The product has no such hook; this program puts one around three of its methods and then is ``postern``.
Writes one JSON line per acknowledged match to the file POSTERN_BENCH_TIMES: milliseconds from the sensor's time and
from the append to the broker's acknowledgement.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from agent.cli import main
from agent.match.records import Match
from agent.outbox.queue import Outbox
from agent.unit.recorder import Recorder


class Stopwatch:
    """Follows matches from their frame to the acknowledgement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sensor_ns: int | None = None
        self._waiting: dict[int, tuple[int, int]] = {}

    def attach(self, recorders: type[Recorder] = Recorder, outboxes: type[Outbox] = Outbox) -> None:
        """Put the hooks in place."""
        outcome, append, acked = recorders.outcome, outboxes.append, outboxes.acked

        def timed_outcome(recorder: Recorder, what: Any, *rest: Any, **named: Any) -> None:  # noqa: ANN401 - passed on
            self._sensor_ns = what.timestamp_ns if isinstance(what, Match) else None
            outcome(recorder, what, *rest, **named)
            self._sensor_ns = None

        def timed_append(outbox: Outbox, draft: Any, *rest: Any, **named: Any) -> int:  # noqa: ANN401 - passed on
            began_ns = time.monotonic_ns()
            seq = append(outbox, draft, *rest, **named)
            if draft.kind == "match" and self._sensor_ns is not None:
                self._waiting[seq] = (self._sensor_ns, began_ns)
            return seq

        def timed_acked(outbox: Outbox, *seqs: int) -> None:
            now_ns = time.monotonic_ns()
            acked(outbox, *seqs)
            for seq in seqs:
                self._note(seq, now_ns)

        hooks = ((recorders, timed_outcome), (outboxes, timed_append), (outboxes, timed_acked))
        for owner, hook in hooks:
            setattr(owner, hook.__name__.removeprefix("timed_"), hook)

    def _note(self, seq: int, now_ns: int) -> None:
        times = self._waiting.pop(seq, None)
        if times is not None:
            with self._path.open("a") as stream:
                print(
                    json.dumps({"frame_ms": (now_ns - times[0]) / 1e6, "append_ms": (now_ns - times[1]) / 1e6}),
                    file=stream,
                )


if __name__ == "__main__":
    Stopwatch(Path(os.environ["POSTERN_BENCH_TIMES"])).attach()
    sys.exit(main())
