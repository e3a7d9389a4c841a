# SPDX-License-Identifier: Apache-2.0
"""What the running unit takes of the machine while it decodes 720p video and somebody is recognised."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.benchmarks.clip import demo_clip, frame_count
from tools.benchmarks.running import MAX_FILES, MAX_RESIDENT_MIB, MAX_THREADS, bench
from tools.benchmarks.service import run_service

SECONDS = 6.0  # of the demo's scene: the first person is there and is recognised


@pytest.mark.broker
@pytest.mark.timeout(240)
def test_a_unit_with_a_720p_video_stays_within_its_memory_threads_and_files(tmp_path: Path) -> None:
    pytest.importorskip("av")
    if shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin") is None:
        pytest.skip("mosquitto is not installed")
    with bench(visitors=1) as unit:
        run = run_service(unit.config(demo_clip(tmp_path, SECONDS)))
    print(f"{run.resident_mib:.1f} MiB resident, {run.private_mib:.1f} of it private, {run.threads} threads")
    assert run.frames == frame_count(SECONDS) - 1
    assert run.resident_mib <= MAX_RESIDENT_MIB
    assert run.threads <= MAX_THREADS
    assert run.files <= MAX_FILES
