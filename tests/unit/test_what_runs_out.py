# SPDX-License-Identifier: Apache-2.0
"""All that runs out is told in good time by the running unit: in its log, in its health, to whoever subscribes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.errors import KeyStoreError
from agent.keys import load_public_key
from agent.mqtt.credentials import Credentials, read_ends
from agent.site import programs
from agent.subscribe.board import Board
from agent.subscribe.files import TrustFile
from agent.unit.endings import Endings
from tests.simulators.pki import Authority
from tests.simulators.site_office import SiteOffice

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


@pytest.mark.parametrize(("left", "told"), [(200, False), (150, True), (3, True)])
def test_an_authority_that_ends_is_logged_half_a_year_before_since_everybody_has_to_join_anew(
    left: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lasts = 3650  # of the simulated authority
    watch, clock = endings(tmp_path, days=lasts + 1000)
    clock.advance((lasts - left) * DAY_S)
    watch.look()
    assert [("the site's authority ends on" in record.getMessage()) for record in caplog.records] == [True] * told
    assert watch.days_left() == left - 1, "of whichever ends first; a part of a day is none"


def test_a_list_of_tokens_that_ends_or_is_gone_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime.now(UTC)
    identity = Authority(tmp_path).issue("door-3", ends=now + timedelta(days=300))

    def look(tokens: Callable[[], datetime | None]) -> list[str]:
        caplog.clear()
        Endings(identity, SimulatedClock(now), unit="door-3", weeks=lambda: 3, tokens=tokens).look()
        return [record.getMessage() for record in caplog.records]

    def gone() -> datetime:
        raise KeyStoreError("there is no list of tokens")

    assert look(lambda: now + timedelta(days=4)) == []
    (text,) = look(lambda: now + timedelta(days=3, hours=23))
    assert "no token is taken after" in text
    assert "postern site token-list" in text
    assert look(gone) == ["there is no list of tokens"]


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


@pytest.mark.parametrize(("left", "told"), [(200, 0), (29, 1), (0, 1)])
def test_a_certificate_of_a_program_that_ends_is_told_once_a_day(tmp_path: Path, left: int, told: int) -> None:
    """An auditor was deaf from the day on at which it had ended, after a year in which it had said nothing."""
    office = SiteOffice(tmp_path)
    program = programs.issue_client(office.site, "wall", "auditor", clock=office.clock)
    clock = SimulatedClock(read_ends(Credentials.in_folder(program))[0] - timedelta(days=left, hours=1))
    notices: list[str] = []
    board = Board(
        site="hq",
        trust=TrustFile(program / "trust.jws", load_public_key(program / "site.jwk")),
        credentials=Credentials.in_folder(program),
        clock=clock,
        on_notice=notices.append,
        tell_once=notices.append,
        on_keys=None,
    )
    board.warn()
    for _ in range(20):
        clock.advance(60)
        board.newer()
    assert sum("this program's certificate ends on" in text for text in notices) == told
    assert sum("postern site add-program wall" in text for text in notices) == told
    clock.advance(DAY_S)
    board.newer()
    assert sum("this program's certificate ends on" in text for text in notices) == 2 * told
