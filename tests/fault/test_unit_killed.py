# SPDX-License-Identifier: Apache-2.0
"""kill -9 anywhere in a life of enrolling, matching, publishing and erasing; ``tools/kills`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.rigging.kills import run

KILLS = 8


@pytest.mark.timeout(180)
def test_killed_while_it_enrols_matches_publishes_or_erases_it_keeps_every_promise(tmp_path: Path) -> None:
    books = run(tmp_path, KILLS, seed=3)
    assert books.wrong == []
    assert books.did["signed"] >= KILLS, "the workers hardly worked"
    assert books.did["enrolled"]
