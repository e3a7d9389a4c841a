# SPDX-License-Identifier: Apache-2.0
"""A bridge whose clock jumps, also beyond the end of the list of units: told in one sentence, and no event is lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.clock import SystemClock
from agent.disk.files import write_atomic
from tests.fault.test_bridge_killed import Premises
from tests.fault.test_bridge_twins import Running
from tests.simulators.broker import PATIENCE_S, wait_until
from tests.simulators.signing_unit import trust_list

HOUR_S, YEAR_S = 3600.0, 365 * 86_400.0


class JumpingClock(SystemClock):
    """The machine's clocks, of which the one that can be set is wrong by ``off_s``."""

    off_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.off_s)


@pytest.fixture
def premises(tmp_path: Path) -> Iterator[Premises]:
    made = Premises(tmp_path)
    ends = (SystemClock().now() + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = replace(trust_list(*(unit.unit for unit in made.units)), version=2, expires_at=ends)
    write_atomic(made.folder / "keys" / "trust.jws", content.sign(made.key).encode())
    yield made
    made.close()


@pytest.mark.broker
@pytest.mark.timeout(240)
@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, YEAR_S, -YEAR_S])
def test_a_clock_that_jumps_and_comes_back_loses_nothing_and_moves_no_automation(
    premises: Premises, off_s: float
) -> None:
    clock, unit = JumpingClock(), premises.units[0]
    running = Running(premises.folder, clock)

    def arrived() -> bool:
        return set(premises.receiver.events()) >= premises.signed() == set(running.archived())

    try:
        wait_until(lambda: running.heard("listening"), 2 * PATIENCE_S)
        unit.start()
        unit.say()
        wait_until(arrived)
        before = len(premises.receiver.taken)
        clock.off_s = off_s
        unit.say(2)
        if off_s == YEAR_S:
            wait_until(lambda: running.heard("the site's list of units has ended"), 2 * PATIENCE_S)
        else:
            wait_until(arrived)
        assert not any(one["act"] for one in premises.receiver.taken[before:]), "by one of the clocks it is not now"
        clock.off_s = 0.0
        unit.say()
        wait_until(arrived, 6 * PATIENCE_S)
        ended = [told for told in running.told if "has ended" in told]
        assert len(ended) == (off_s == YEAR_S)
    finally:
        running.stop()
