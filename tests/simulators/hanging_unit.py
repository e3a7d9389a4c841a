# SPDX-License-Identifier: Apache-2.0
"""A unit that hangs in a pulse: ``python -m tests.simulators.hanging_unit BOARD``; it ignores what it can.

Its line is on, held by a keeper as a unit's is; nothing of this process would ever switch it off.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from agent.clock import SystemClock
from agent.door.lines import OutputSpec
from agent.unit.notify import Notifier
from tools.lib.rig.board import BoardOfAUnit

LINE = 27
PULSE_MS = 600_000  # nobody waits for its end


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    spec = OutputSpec(Path("/dev/gpiochip0"), LINE, active_low=False, longest_ms=PULSE_MS)
    BoardOfAUnit(Path(sys.argv[1])).open_output(spec).set(on=True)
    Notifier(os.environ.get("NOTIFY_SOCKET"), 0, SystemClock()).alive()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
