# SPDX-License-Identifier: Apache-2.0
"""A clock that two services pull at, to and fro each second: the unit says so now and then, and loses nobody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent.audit.chain import read_entries
from agent.clock import ClockState, SimulatedClock
from agent.config.load import load_config
from agent.unit.housekeeping import CLOCK_STEP_EVERY_S, CLOCK_STEPS_AT_ONCE
from tests.attack.test_wrong_time import DAY
from tests.simulators.dark_unit import assembled, references
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START

RUNS_S = 600


@pytest.mark.timeout(120)
@pytest.mark.parametrize("state", ["synced", "unsynced"])
@pytest.mark.parametrize("jump", [3600, 400 * DAY, 7305 * DAY])
def test_a_clock_that_flaps_each_second_fills_neither_log_nor_queue_and_erases_nobody(
    tmp_path: Path, jump: float, state: ClockState
) -> None:
    premises, clock = Premises(tmp_path), SimulatedClock(START)
    config = load_config(premises.config)
    with assembled(config, clock) as service:
        log, head = len(list(read_entries(config.audit.path))), service._stores.outbox.head().seq
        for second in range(RUNS_S):
            clock.advance(1)
            clock.step_wall(jump if second % 2 else -jump, state if second % 2 else "synced")
            service._housekeeping.tick()
        written = Counter(entry.kind for entry in list(read_entries(config.audit.path))[log:])
        most = RUNS_S / CLOCK_STEP_EVERY_S + CLOCK_STEPS_AT_ONCE
        assert set(written) == {"clock_step"}
        assert 2 <= written["clock_step"] <= most
        assert service._stores.outbox.head().seq - head <= most
        assert references(service) == 1
