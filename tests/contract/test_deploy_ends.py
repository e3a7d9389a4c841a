# SPDX-License-Identifier: Apache-2.0
"""How the packaged service ends: its keeper of the output lines hears of it, and ``door-off`` has its time."""

from __future__ import annotations

import re
import signal

from agent.door import keeper
from tests.contract.test_deploy import DEPLOY, setting

DOOR_OFF_S = 12.4  # of 'postern door-off' on an emulated board: deploy/image/README.md


def test_whatever_ends_the_unit_its_keeper_hears_of_it_first() -> None:
    """What ``fault/test_killed_by_systemd.py`` plays where a systemd may run: the settings that it is about."""
    assert setting("KillMode") == ["control-group"]
    for default in ("KillSignal", "WatchdogSignal", "SendSIGKILL", "FinalKillSignal", "RestartKillSignal"):
        assert setting(default) == [], "SIGTERM and SIGABRT are what the keeper obeys"
    assert set(keeper.ENDING) == {signal.SIGTERM, signal.SIGABRT}
    assert not set(keeper.ENDING) & set(keeper.IGNORED)
    assert int(setting("WatchdogSec")[0]) > 0


def test_after_every_end_the_lines_are_switched_off_once_more_with_time_for_a_slow_board() -> None:
    assert setting("ExecStopPost") == ["-/usr/bin/postern door-off --config /etc/postern/config.yaml"]
    assert int(setting("TimeoutStopSec")[0]) >= 4 * DOOR_OFF_S
    assert setting("TimeoutAbortSec") == setting("TimeoutSec") == []
    # A drop-in of ours that said otherwise would count more than the file.
    for drop_in in (*DEPLOY.rglob("postern.service.d/*"), *DEPLOY.glob("*.conf*"), *DEPLOY.glob("cameras/*.conf")):
        assert not re.search(r"^(KillMode|TimeoutStopSec|ExecStopPost)=", drop_in.read_text(), re.MULTILINE), drop_in
