# SPDX-License-Identifier: Apache-2.0
"""All that runs out is told in good time by the running unit: in its log, in its health, to whoever subscribes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.unit.endings import Endings
from tests.simulators.pki import Authority

DAY_S = 24 * 3600


def endings(folder: Path, days: int, *, weeks: int = 3, state: str = "synced") -> tuple[Endings, SimulatedClock]:
    now = datetime.now(UTC)
    clock = SimulatedClock(now, state=state)  # type: ignore[arg-type]
    identity = Authority(folder).issue("door-3", ends=now + timedelta(days=days, hours=1))
    return Endings(identity, clock, unit="door-3", weeks=lambda: weeks, tokens=lambda: None), clock


def test_a_certificate_that_ends_is_logged_once_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch, clock = endings(tmp_path, days=5)
    for _ in range(48):
        watch.look()
        clock.advance(3600)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2
    assert "this unit's certificate ends on" in told[0]
    assert "postern site renew-unit door-3" in told[0]
    assert watch.days_left() == 3


def test_one_that_lasts_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch, _ = endings(tmp_path, days=200)
    watch.look()
    assert not caplog.records
    assert watch.days_left() == 200


def test_epoch_keys_that_end_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for weeks, text in ((1, "this week's epoch key is the last"), (0, "there is no epoch key")):
        watch, _ = endings(tmp_path / str(weeks), days=200, weeks=weeks)
        watch.look()
        assert text in caplog.records[-1].getMessage()


def test_a_clock_that_may_be_wrong_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch, _ = endings(tmp_path, days=5, weeks=0, state="unsynced")
    watch.look()
    assert not caplog.records


def test_one_that_is_over_has_no_day_left_and_one_that_is_gone_says_nothing(tmp_path: Path) -> None:
    watch, clock = endings(tmp_path, days=5)
    clock.advance(10 * DAY_S)
    assert watch.days_left() == 0
    (tmp_path / "door-3.crt").unlink()
    assert watch.days_left() is None
