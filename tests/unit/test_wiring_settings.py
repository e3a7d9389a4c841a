# SPDX-License-Identifier: Apache-2.0
"""What a unit says of settings, policies and reloads that it does not take, whole; and what it says that runs out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.errors import KeyStoreError, PosternError, StorageError
from agent.outbox.epoch_keys import save
from agent.protocol.pseudonym import EpochKey
from agent.unit.configuring import MAX_WHY, Configuring, _short
from agent.unit.endings import AUTHORITY_NOTICE, NOTICE, TOKENS_NOTICE, Endings
from agent.unit.epochs import load_epoch_keys
from agent.unit.reload import Reload
from tests.simulators.config import configured
from tests.simulators.configured import Configured
from tests.simulators.full_disk import no_file_grows_beyond
from tests.simulators.pki import Authority

OLD_STAYS = "the new configuration is not taken, the old one stays: "


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.getMessage()) for one in caplog.records]


@pytest.fixture
def site(tmp_path: Path) -> Configured:
    return Configured(tmp_path)


# -- reload -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (KeyStoreError("unit.key is gone: restore it"), "unit.key is gone: restore it"),
        (MemoryError(), "there is not enough memory to try it beside the running unit: restart the service"),
    ],
)
def test_a_file_that_is_not_taken_is_told_once_with_its_reason_and_hands_nothing_over(
    error: Exception, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    def reread() -> Config:
        raise error

    clock = SimulatedClock()
    reload = Reload(Configuring(configured(), clock), reread, clock)
    assert not reload.is_due(), "nobody asked"
    reload.asked.set()
    assert not reload.is_due()
    assert not reload.is_due()
    assert reload.take() is None
    assert not reload.asked.is_set()
    assert logged(caplog) == [("WARNING", f"{OLD_STAYS}{why}")]


def test_a_reload_that_cannot_be_tried_leaves_settings_of_the_site_that_are_in_force_alone(site: Configured) -> None:
    site.unit.begin()
    site.apply({"activation": {"dwell_ms": 900}})
    assert site.unit.take(site.signed())["configuration"] == "trying"
    reload = Reload(site.unit, site.local, site.clock)
    assert not reload.is_due(), "the unit's keys are none of a unit: nothing starts on them"
    assert site.state == "refused", "and what waited to be tried goes back with the reason"
    assert site.why != ""


# -- settings of the site ---------------------------------------------------------------------------------------------


def refused(act: Callable[[], object]) -> tuple[str | None, str]:
    with pytest.raises(PosternError) as refusal:
        act()
    return getattr(refusal.value, "reason", None), str(refusal.value)


def test_older_settings_are_refused_with_the_number_that_this_unit_knows(site: Configured) -> None:
    site.unit.begin()
    site.apply({"activation": {"dwell_ms": 700}})
    old = site.signed()
    site.apply({"activation": {"dwell_ms": 800}})
    site.unit.take(site.signed())
    sentence = "this unit knows configuration 2, which is newer: send the newest"
    assert refused(lambda: site.unit.take(old)) == ("replayed", sentence)


def test_what_the_disk_does_not_take_is_taken_back_in_memory_and_told(
    site: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    with no_file_grows_beyond(0):
        assert site.unit.failed("the camera does not open", state="rolled_back")
    (first, said), (second, why) = logged(caplog)
    assert (first, said) == (
        "WARNING",
        "the settings that the site sent (serial 1) were taken back: the camera does not open",
    )
    assert second == "WARNING"
    assert why.startswith("this is not on the disk yet: ")
    assert (site.state, site.why) == ("rolled_back", "the camera does not open")


def test_a_start_that_cannot_be_counted_tries_nothing(site: Configured) -> None:
    site.unit.begin()
    site.send({"activation": {"dwell_ms": 900}})
    with no_file_grows_beyond(0):
        begun = msgspec.to_builtins(site.unit.begin().activation)
    assert begun["dwell_ms"] == 600
    assert site.state == "rolled_back"


def test_a_reason_is_one_line_of_a_length() -> None:
    assert _short("a\nb\x1b[2J") == "a; b?[2J"
    assert _short("x" * (MAX_WHY - 1)) == "x" * (MAX_WHY - 1)
    assert _short("x" * MAX_WHY) == "x" * (MAX_WHY - 1) + "…"


def test_nothing_is_taken_back_where_nothing_was_sent(site: Configured) -> None:
    assert not site.unit.failed("why", state="refused")
    assert not site.unit.waits()
    assert site.unit.state() is None
    site.unit.look()
    assert not site.unit.asked.is_set()


# -- what runs out ----------------------------------------------------------------------------------------------------


def ending(
    folder: Path, *, days: float, weeks: int = 3, tokens: Callable[[], datetime | None] = lambda: None
) -> tuple[Endings, datetime]:
    now = datetime.now(UTC).replace(microsecond=0)
    ends = now + timedelta(days=days)
    identity = Authority(folder).issue("door-3", ends=ends)
    return Endings(identity, SimulatedClock(now), unit="door-3", weeks=lambda: weeks, tokens=tokens), ends


def test_each_thing_that_runs_out_is_one_sentence_with_the_commands_that_renew_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    listed = now + TOKENS_NOTICE - timedelta(minutes=1)
    watch, ends = ending(tmp_path / "all", days=NOTICE.days - 0.01, weeks=1, tokens=lambda: listed)
    watch.look()
    certificate = (
        f"this unit's certificate ends on {ends:%Y-%m-%d}: renew it (postern site renew-unit door-3, then postern unit"
        " install)"
    )
    weeks = "issue new ones (postern site issue-keys door-3, then postern ask door-3 key/rotate)"
    tokens = (
        f"no token is taken after {listed:%Y-%m-%d}: carry a new list here (postern site token-list, then postern ask"
        " door-3 key/rotate token_list=@FILE)"
    )
    assert logged(caplog) == [
        ("WARNING", certificate),
        ("WARNING", f"this week's epoch key is the last: {weeks}"),
        ("WARNING", tokens),
    ]
    caplog.clear()
    ending(tmp_path / "none", days=NOTICE.days + 0.01, weeks=0)[0].look()
    assert logged(caplog) == [
        ("WARNING", f"there is no epoch key, so nobody is announced: {weeks}"),
    ]
    caplog.clear()
    ending(tmp_path / "two", days=NOTICE.days + 0.01, weeks=2)[0].look()
    assert logged(caplog) == []
    assert timedelta(days=180) == AUTHORITY_NOTICE


def test_what_runs_out_is_told_again_a_day_later_to_the_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    clock = SimulatedClock(now)
    identity = Authority(tmp_path).issue("door-3", ends=now + timedelta(days=100))
    watch = Endings(identity, clock, unit="door-3", weeks=lambda: 0, tokens=lambda: None)
    for wait_s, told in ((0, 1), (24 * 3600 - 1, 1), (1, 2), (1, 2)):
        clock.advance(wait_s)
        watch.look()
        assert len(caplog.records) == told, wait_s


# -- epoch keys -------------------------------------------------------------------------------------------------------


def test_epoch_keys_of_another_site_are_told_with_both_names(tmp_path: Path) -> None:
    config: Any = configured(keys={"folder": str(tmp_path)})
    path = tmp_path / "epoch-keys.json"
    save(path, [EpochKey("annex", "access", "2026-W48", "A" * 43)])
    with pytest.raises(KeyStoreError) as refusal:
        load_epoch_keys(config)
    assert str(refusal.value) == (
        f"{path} is of site 'annex', this is '{config.unit.site}': correct unit.site, or join that site (postern unit"
        " request)"
    )
    save(path, [EpochKey(config.unit.site, "access", "2026-W48", "A" * 43)])
    assert load_epoch_keys(config).sites() == {config.unit.site}
    path.unlink()
    with pytest.raises((KeyStoreError, StorageError)):
        load_epoch_keys(config)
