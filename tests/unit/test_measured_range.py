# SPDX-License-Identifier: Apache-2.0
"""A gallery larger than the policy was measured for is told, once, and by whoever is asked about the unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SimulatedClock
from agent.gallery.database import count_references, held_anybody
from agent.match.measured_range import MeasuredRange
from agent.match.policy import TailPoint, parse_policy
from agent.unit.doctor import tell_policy
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, captures, consent, open_store
from tests.unit.test_match_policy import policy

SHIPPED = parse_policy((Path(__file__).parents[2] / "models" / "policy.json").read_bytes())
MOST = SHIPPED.measured_references


@given(st.floats(1e-5, 0.09), st.floats(1e-5, 0.5))
def test_the_measured_range_ends_where_the_threshold_says_so(target: float, fmr: float) -> None:
    tail = (TailPoint(0.9, 0.1), TailPoint(fmr, 0.5))
    made = policy(target_fpir=target, impostor_tail=tail)
    most = made.measured_references
    assert most == 0 or made.threshold(most).measured
    assert not made.threshold(most + 1).measured


def test_it_is_logged_once_when_the_gallery_outgrows_the_policy_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "postern")
    watched = MeasuredRange(SHIPPED)
    for size in (0, 1, MOST, MOST + 1, MOST + 1, MOST + 2, MOST + 50, MOST, MOST - 1):
        watched.look(size)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"{MOST + 1} people are enrolled" in caplog.text
    assert f"measured for up to {MOST}" in caplog.text


def test_the_doctor_advises_when_the_gallery_has_outgrown_the_policy() -> None:
    assert [state for state, _ in tell_policy(SHIPPED, MOST)] == ["ok"]
    found = list(tell_policy(SHIPPED, 2 * MOST))
    assert [state for state, _ in found] == ["ok", "advice"]
    assert "instead of 0.001" in found[1][1]


def test_the_gallery_of_a_running_unit_is_counted_without_its_keys(tmp_path: Path) -> None:
    path, clock = tmp_path / "gallery.db", SimulatedClock()
    assert (count_references(path, MODEL), held_anybody(path)) == (0, False)
    assert not path.exists()
    with open_store(tmp_path, clock) as store:
        assert (count_references(path, MODEL), held_anybody(path)) == (0, False)
        for model in (MODEL, MODEL, OTHER_MODEL):
            store.enrol(captures(np.random.default_rng()), consent=consent(clock.now()), model=model)
        assert (count_references(path, MODEL), held_anybody(path)) == (2, True)
