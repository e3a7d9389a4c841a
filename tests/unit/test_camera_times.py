# SPDX-License-Identifier: Apache-2.0
"""Times of live pictures: what a driver or a stream claims is believed as far as it can be true, and age is known."""

from __future__ import annotations

import itertools

from agent.camera.timestamps import MAX_AHEAD_NS, MAX_DRIFT_PPM, StreamClock, Timestamps

S = 1_000_000_000
FRAME = 40_000_000  # ns: 25 pictures a second
DELAY = 30_000_000  # ns from the sensor to here


def played(claims: list[int]) -> list[int]:
    """Times of pictures that arrive at 25 a second, from 1000 s on."""
    times = Timestamps()
    return [times.live(claim, 1000 * S + number * FRAME) for number, claim in enumerate(claims)]


def honest(count: int) -> list[int]:
    return [1000 * S + number * FRAME - DELAY for number in range(count)]


def test_a_stamp_from_the_future_does_not_let_time_stand_still() -> None:
    claims = honest(50)
    claims[10] += 8 * S
    times = played(claims)
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(steps) < 2 * FRAME
    assert sum(step < FRAME // 4 for step in steps) <= 1
    assert times[-1] == claims[-1]


def test_stamps_that_are_always_ahead_become_times_of_arrival() -> None:
    assert played([claim + 8 * S for claim in honest(50)]) == [1000 * S + number * FRAME for number in range(50)]


def test_no_time_is_later_than_now() -> None:
    assert Timestamps().live(1000 * S + MAX_AHEAD_NS // 2, 1000 * S) == 1000 * S


def test_a_stamp_that_is_stuck_does_not_let_time_stand_still() -> None:
    times = played([*honest(10), *[honest(10)[-1]] * 40])
    assert times[-1] - times[9] > 39 * FRAME


def test_stamps_that_jump_back_and_forth_keep_rising_times() -> None:
    claims = honest(50)
    claims[20], claims[21] = claims[21], claims[20]
    times = played(claims)
    assert times == sorted(set(times))
    assert all(abs(time - claim) <= 2 * FRAME for time, claim in zip(times, claims, strict=True))


def ages(stream: StreamClock, pictures: list[tuple[int, int]]) -> list[int]:
    return [arrived - stream.taken(pts, arrived) for pts, arrived in pictures]


def test_pictures_that_come_later_and_later_are_known_to_be_old() -> None:
    """A board at a fifth of the speed it needs: each picture of 40 ms takes 200."""
    found = ages(StreamClock(), [(n * FRAME, 5 * S + n * 5 * FRAME) for n in range(50)])
    assert found[0] == 0
    assert abs(found[-1] - 49 * 4 * FRAME) < S // 100


def test_a_burst_after_a_stall_is_old_and_what_follows_is_not() -> None:
    before = [(n * FRAME, 5 * S + n * FRAME) for n in range(25)]
    burst = [(n * FRAME, 5 * S + 100 * FRAME + (n - 25) * S // 1000) for n in range(25, 100)]
    after = [(n * FRAME, 5 * S + (n + 5) * FRAME) for n in range(100, 125)]
    stream = StreamClock()
    assert max(ages(stream, before)) == 0
    late = ages(stream, burst)
    assert abs(late[0] - 75 * FRAME) < S // 10
    assert late[-1] < S // 5
    assert max(ages(stream, after)) < S // 4


def test_a_quicker_picture_corrects_what_the_first_ones_said() -> None:
    stream = StreamClock()
    assert ages(stream, [(0, 5 * S), (FRAME, 5 * S), (2 * FRAME, 5 * S), (3 * FRAME, 5 * S + FRAME)])[-1] == 0
    assert ages(stream, [(4 * FRAME, 5 * S + 4 * FRAME)])[0] > 1.9 * FRAME


def test_stream_time_that_jumps_begins_anew() -> None:
    for jump in (8 * S, -8 * S, 3600 * S):
        stream = StreamClock()
        ages(stream, [(100 * S + n * FRAME, 5 * S + n * FRAME) for n in range(25)])
        assert max(ages(stream, [(100 * S + jump + n * FRAME, 5 * S + n * FRAME) for n in range(25, 50)])) == 0


def test_a_clock_that_drifts_makes_nobody_old() -> None:
    stream, day = StreamClock(), 24 * 3600
    slow = 1 + (MAX_DRIFT_PPM - 10) / 1e6  # the camera's second lasts longer than ours
    assert max(ages(stream, [(n * S, 5 * S + round(n * S * slow)) for n in range(0, day, 10)])) < S // 100
