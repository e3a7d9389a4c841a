# SPDX-License-Identifier: Apache-2.0
"""Two facts of time; and waits between attempts, which double from the first on, end at a ceiling, and vary between."""

from __future__ import annotations

import ctypes
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import BOOT_ID, Bounds, SimulatedClock, SystemClock, full_jitter, uniform

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


def test_chance_is_drawn_evenly_from_zero_to_below_one() -> None:
    assert uniform(bytes) == 0.0
    assert uniform(lambda n: b"\x80" + bytes(n - 1)) == 0.5
    assert uniform(lambda n: b"\xff" * n) == 1 - 2**-32


def test_a_simulated_clock_moves_both_times_and_only_when_told() -> None:
    clock = SimulatedClock()
    assert (clock.monotonic_ns(), clock.now(), clock.state()) == (0, datetime(2026, 1, 5, 8, 0, tzinfo=UTC), "synced")
    clock.advance(1.5)
    clock.sleep(0.25)
    assert (clock.monotonic_ns(), clock.now()) == (1_750_000_000, datetime(2026, 1, 5, 8, 0, 1, 750_000, tzinfo=UTC))
    assert (clock.refusal(), clock.boot()) == (None, "simulated")


def test_a_step_of_the_simulated_clock_moves_wall_time_alone_and_keeps_what_is_known_of_it() -> None:
    start = datetime(2020, 2, 29, tzinfo=UTC)
    clock = SimulatedClock(start, "unsynced")
    clock.step_wall(-3600)
    assert (clock.monotonic_ns(), clock.now(), clock.state()) == (0, start - timedelta(hours=1), "unsynced")
    clock.step_wall(7200, "synced")
    assert (clock.monotonic_ns(), clock.now(), clock.state()) == (0, start + timedelta(hours=1), "synced")


def test_the_machines_clock_is_the_machines() -> None:
    clock = SystemClock()
    assert abs(clock.monotonic_ns() - time.monotonic_ns()) < 60 * 10**9
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=1)
    assert clock.boot() == BOOT_ID.read_text().strip()
    machine = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    known = SystemClock(mark=Path("/nowhere"))
    assert known.state() == ("synced" if 0 <= machine < 5 else "unsynced")
    assert (known.refusal() is None) == (machine >= 0)
    before = time.monotonic()
    clock.sleep(0.001)
    assert time.monotonic() - before >= 0.001
