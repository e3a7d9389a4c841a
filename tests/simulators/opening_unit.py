# SPDX-License-Identifier: Apache-2.0
"""The door of a unit as it is installed: ``python -m tests.simulators.opening_unit FOLDER``.

Everybody whose number stands in ``FOLDER/people`` is matched again and again, until SIGTERM; each start adds the
release it is of to ``FOLDER/releases``. The board's lines are those of ``FOLDER/board``, held by a keeper.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import agent
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.unit.at_the_door import Door, make_gate, rights_path
from agent.unit.notify import Notifier
from tools.lib.rig.board import BoardOfAUnit
from tools.lib.rig.pulse_kills import BOARD, LineOfSomebody

PEOPLE, RELEASES = "people", "releases"


def main(folder: Path) -> None:
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    with (folder / RELEASES).open("a") as releases:
        releases.write(f"{agent.__version__}\n")
    config, clock = load_config(folder / "config.yaml"), SystemClock()
    lines = LineOfSomebody(BoardOfAUnit(folder / BOARD))
    problem = logging.getLogger("door").error
    with Rights(rights_path(config), clock) as rights:
        gate, verification = make_gate(config), Verification(clock, lambda *_: None)
        door = Door(config, gate, rights, lines, clock=clock, verification=verification, on_problem=problem)
        with closing(door):
            Notifier(os.environ.get("NOTIFY_SOCKET"), 0, clock).alive()
            while not ending:
                for number in (folder / PEOPLE).read_text().split():
                    lines.person = int(number)
                    subject = SubjectId(lines.person.to_bytes(16, "big"))
                    door.matched(Match(subject, gate.zone, clock.monotonic_ns()))
                door.outputs.tick()
                time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
