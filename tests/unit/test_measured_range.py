# SPDX-License-Identifier: Apache-2.0
"""A gallery larger than the policy was measured for is told, once, and by whoever is asked about the unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.clock import SimulatedClock
from agent.gallery.database import count_references, held_anybody
from agent.match.measured_range import MeasuredRange
from agent.match.policy import TARGETS, parse_policy
from agent.match.tail import TailPoint
from agent.unit.doctor import tell_policy
from agent.unit.expected import expected
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, captures, consent, open_store
from tests.unit.test_match_policy import DECISION, SINGLE, policy, tail

SHIPPED = parse_policy((Path(__file__).parents[2] / "models" / "policy.json").read_bytes())
MADE = policy()
MOST = MADE.covered_references


@given(st.sampled_from(TARGETS), st.floats(1e-5, 5e-3))
def test_the_range_ends_where_the_threshold_says_so(target: float, fmr: float) -> None:
    points = (TailPoint(0.9, 0.1, 0.1, 0.1), TailPoint(fmr, 0.5, 0.5, 0.5))
    made = policy(target_fpir=target, decisions=(SINGLE, replace(DECISION, impostors=tail(points=points))))
    most = made.covered_references
    assert most == 0 or made.threshold(most, 3).state != "beyond"
    assert made.threshold(most + 1, 3).state == "beyond"
    assert made.measured_references <= max(most, round(target / made.decision(3).impostors.measured_to))


def test_it_is_logged_once_when_the_gallery_outgrows_the_policy_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "postern")
    watched = MeasuredRange(MADE)
    for size in (0, 1, MOST, MOST + 1, MOST + 1, MOST + 2, MOST + 50, MOST, MOST - 1):
        watched.look(size)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f"{MOST + 1} people are enrolled" in caplog.text
    assert f"reaches up to {MOST}" in caplog.text
    assert caplog.records[1].getMessage() == f"{MOST} people are enrolled: the policy reaches that far"


def test_the_doctor_advises_when_the_gallery_has_outgrown_the_policy() -> None:
    assert [state for state, _ in tell_policy(MADE, MOST)] == ["ok"]
    found = list(tell_policy(MADE, 2 * MOST))
    assert [state for state, _ in found] == ["ok", "advice"]
    assert "instead of 0.001" in found[1][1]


def test_the_doctor_and_info_say_what_is_missed_and_what_of_it_is_extrapolated() -> None:
    (_, promise), (_, missed) = tell_policy(MADE, 8)
    assert "measured up to 100, then extrapolated" in promise
    assert "0.10% are missed" in missed
    assert "in a gallery of 10 at measured thresholds" in missed
    told = expected(MADE, 8)
    assert (told.fpir_ppm, told.threshold, told.gallery) == (1000, "measured", 10)
    assert (told.fnir_ppm, told.fnir_low_ppm, told.fnir_high_ppm) == (1000, 0, 10_000)
    beyond = expected(MADE, 5000)
    assert (beyond.fpir_ppm, beyond.threshold) == (5000, "beyond")
    assert (beyond.gallery, beyond.fnir_ppm, beyond.fnir_low_ppm, beyond.fnir_high_ppm) == (None,) * 4


@pytest.mark.parametrize("target", TARGETS)
def test_the_shipped_policy_reaches_galleries_of_a_thousand_at_every_target(target: float) -> None:
    chosen = replace(SHIPPED, target_fpir=target)
    assert chosen.covered_references >= 1000
    for size in (1, 10, 100, 500, 1000):
        misses = chosen.misses(size)
        assert misses is not None
        assert misses.gallery == size
        assert misses.low_ppm <= misses.fnir_ppm <= misses.high_ppm
        assert chosen.threshold(size, SHIPPED.probe.first).rate <= target * (1 + 1e-9)
    thresholds = [chosen.threshold(size, SHIPPED.probe.first).value for size in range(1, 1001, 37)]
    assert thresholds == sorted(thresholds)
    assert max(thresholds) < 1


def test_the_gallery_of_a_running_unit_is_counted_without_its_keys(tmp_path: Path) -> None:
    path, clock = tmp_path / "gallery.db", SimulatedClock()
    assert (count_references(path, MODEL, None), held_anybody(path)) == (0, False)
    assert not path.exists()
    rng = np.random.default_rng(8)
    with open_store(tmp_path, clock) as store:
        assert (count_references(path, MODEL, None), held_anybody(path)) == (0, False)
        for model in (MODEL, MODEL, OTHER_MODEL):
            store.enrol(captures(rng), consent=consent(clock.now()), model=model)
        assert (count_references(path, MODEL, None), held_anybody(path)) == (2, True)


def test_the_first_reference_is_told_where_the_policy_reaches_none(caplog: pytest.LogCaptureFixture) -> None:
    points = (TailPoint(0.9, 0.1, 0.1, 0.1), TailPoint(5e-3, 0.5, 0.5, 0.5))
    none_covered = policy(decisions=(SINGLE, replace(DECISION, impostors=tail(points=points))))
    assert none_covered.covered_references == 0
    MeasuredRange(none_covered).look(1)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("1 people are enrolled, and the policy reaches up to 0: expect an FPIR of up to ")
    assert line.endswith("; calibrate it on more people, or enrol fewer at this unit")
