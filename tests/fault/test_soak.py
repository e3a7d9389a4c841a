# SPDX-License-Identifier: Apache-2.0
"""The short form of ``tools/rig soak``: two services, a real Mosquitto, and a fault every few seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.simulators.typed import typed
from tools.lib.rig.soak import MORTAL, STEADY, Soak

FAULTS_MIN = 0.3
VISITORS = 6  # turns of two seconds: who is seen again within ten seconds is on the same visit
MAX_THREADS, MAX_FILES = 5, 16  # 3 and 12 were seen: one more for each broken connection would not fit


@pytest.mark.broker
@pytest.mark.timeout(300)
def test_faults_in_a_row_lose_double_and_alter_nothing_and_leave_no_thread_or_file_open(tmp_path: Path) -> None:
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    say = Console(quiet=True)
    result = Soak(tmp_path, minutes=FAULTS_MIN, seed=4, say=say, visitors=VISITORS, settle_s=4, typed=typed).run()
    print(result.faults, result.units, result.usage)
    assert result.wrong() == []
    assert sum(result.faults.values()) >= 3
    assert result.enrolled == VISITORS
    for name in (STEADY, MORTAL):
        books = result.units[name]
        assert books.signed == books.verified >= VISITORS
    _, _, threads, files = zip(*result.usage, strict=True)
    assert max(threads) <= MAX_THREADS
    assert max(files) <= MAX_FILES
