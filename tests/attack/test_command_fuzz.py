# SPDX-License-Identifier: Apache-2.0
"""Altered, forged and nonsensical commands: a short run of ``tools/fuzz-commands``, whose long run has a million."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.lib.fuzz.campaign import campaign

COUNT = 2000  # of each seed


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.timeout(300)  # on a machine that may be busy
def test_no_payload_crashes_the_unit_or_changes_its_state_without_a_valid_signature(tmp_path: Path, seed: int) -> None:
    report = campaign(tmp_path, COUNT, seed)
    assert report.violations == []
    assert report.done, "valid commands are obeyed, or the run would prove nothing"
    assert report.outcomes["bad_signature"] > COUNT / 100
    assert len(report.outcomes) > 12, "the payloads reach the refusals"
