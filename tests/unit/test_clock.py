# SPDX-License-Identifier: Apache-2.0
"""Waits between attempts: they double from the first on, end at a ceiling, and are anywhere in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Bounds, full_jitter

BOUNDS = Bounds(1.0, 2.0, 60.0)


def longest(failures: int, bounds: Bounds = BOUNDS) -> float:
    return full_jitter(failures, bounds, lambda n: b"\xff" * n)


def test_the_longest_wait_doubles_up_to_its_ceiling_and_stays_there() -> None:
    waits = [longest(failures) for failures in range(1, 9)]
    assert waits == pytest.approx([2, 4, 8, 16, 32, 60, 60, 60], rel=1e-6)
    assert longest(10**6) == pytest.approx(60)


def test_the_shortest_wait_is_the_same_after_any_failure() -> None:
    assert {full_jitter(failures, BOUNDS, bytes) for failures in (1, 2, 30)} == {1.0}


@given(failures=st.integers(1, 10**9), luck=st.binary(min_size=8, max_size=8))
def test_no_wait_is_out_of_bounds(failures: int, luck: bytes) -> None:
    assert 1.0 <= full_jitter(failures, BOUNDS, lambda n: luck[:n]) <= 60.0


def test_units_that_fail_together_do_not_come_back_together() -> None:
    luck = [bytes([number] * 8) for number in range(0, 256, 16)]
    waits = {round(full_jitter(3, BOUNDS, lambda n, one=one: one[:n]), 3) for one in luck}  # type: ignore[misc]
    assert len(waits) == len(luck)
    assert max(waits) - min(waits) > 6
