# SPDX-License-Identifier: Apache-2.0
"""A unit in its first day has no settled time: no clock, whatever it says, gives anybody a right twice.

What it destroys for its age then, which is nothing, is in ``test_wrong_time``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.clock import ClockState, SimulatedClock
from tests.attack.test_wrong_time import DAY, EVERY, WAYS
from tests.simulators.unit_life import opened, write_unit

OWNER, OTHER = ("sha256:" + digit * 64 for digit in "01")


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_no_jump_across_a_restart_gives_a_right_twice(tmp_path: Path, jump: float, state: ClockState) -> None:
    config, clock = write_unit(tmp_path / "config.yaml", tmp_path / "unit"), SimulatedClock()
    with opened(config, clock) as stores:
        assert stores.rights.take("portion", OWNER, 540)
        clock.advance(100)
    clock.step_wall(jump, state)
    with opened(config, clock) as stores:
        assert stores.ageing.settled() is None
        assert not stores.rights.take("portion", OWNER, 540)
        clock.advance(539)
        assert not stores.rights.take("portion", OWNER, 540)
        clock.advance(1)
        assert stores.rights.take("portion", OWNER, 540), "one waiting time from the start on"


def test_a_use_while_nobody_knew_the_time_is_no_old_one_once_somebody_does(tmp_path: Path) -> None:
    """A board without a battery begins in 1970: what was used then was used years ago, by the time of the day after."""
    config = write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    clock = SimulatedClock(datetime(1970, 1, 1, 0, 5, tzinfo=UTC), "unsynced")
    with opened(config, clock) as stores:
        assert stores.rights.take("gift", OWNER, 7 * 86_400)
        clock.step_wall(56 * 366 * DAY, "synced")
        stores.ageing.look()
        clock.advance(DAY + 1)
        stores.ageing.look()
    with opened(config, clock) as stores:
        assert stores.ageing.settled() is not None
        assert not stores.rights.take("gift", OWNER, 7 * 86_400)
        assert stores.rights.take("gift", OTHER, 7 * 86_400)
    with opened(config, clock) as stores:
        clock.advance(6 * DAY)
        assert not stores.rights.take("gift", OWNER, 7 * 86_400)
        clock.advance(DAY)
        assert stores.rights.take("gift", OWNER, 7 * 86_400), "nobody waits for ever"
