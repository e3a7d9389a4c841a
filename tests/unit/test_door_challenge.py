# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.door.challenge import (
    AHEAD_PITCH,
    AHEAD_YAW,
    AWAY_PITCH,
    AWAY_YAW,
    DIRECTIONS,
    FRAMES,
    LEVEL_YAW,
    MAX_GAP_NS,
    MAX_PAUSE_NS,
    MIN_PAUSE_NS,
    MIN_REACTION_NS,
    SIDEWAYS,
    TURNED_PITCH,
    TURNED_YAW,
    Challenge,
    Look,
    advance,
    begin,
    orders,
    reached,
    unseen,
)
from tests.simulators.turning import DELAY, FAR, FRAME_NS, obedient, played

seeds = st.integers(0, 2**32)
angles = st.floats(-60, 60)


def drawn(seed: int, steps: int = 3) -> Challenge:
    return begin(random.Random(seed).randbytes, 0, steps=steps)


def of(*steps: str) -> Challenge:
    return Challenge(steps, (MIN_PAUSE_NS,) * (len(steps) + 1), began_ns=0, last_ns=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2, 3])
def test_no_turn_is_asked_for_twice_running_and_both_sides_are(steps) -> None:
    found = orders(steps)
    assert len(found) == len(set(found)) == {2: 2, 3: 14}[steps]
    for order in found:
        assert all(one != other for one, other in itertools.pairwise(order))
        assert set(SIDEWAYS) <= set(order)
        assert set(order) <= set(DIRECTIONS)


def test_every_order_is_drawn_about_as_often() -> None:
    counts = dict.fromkeys(orders(3), 0)
    for seed in range(1400):
        challenge = drawn(seed)
        counts[challenge.steps] += 1
        assert all(MIN_PAUSE_NS <= pause <= MAX_PAUSE_NS for pause in challenge.pauses_ns)
        assert len(challenge.pauses_ns) == 4
    assert min(counts.values()) > 50
    assert max(counts.values()) < 160


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_challenge_of_another_length_is_refused(steps) -> None:
    with pytest.raises(ValueError, match="2 to 3 steps"):
        drawn(1, steps)


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(-20, 20), st.floats(-20, 20))
def test_who_does_as_asked_passes_however_the_head_is_held(seed, yaw, pitch) -> None:
    *_, last = played(drawn(seed), obedient((yaw, pitch)))
    assert last.phase == "passed"
    assert last.prompt is None


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_who_is_never_matched_again_never_passes(seed) -> None:
    *_, last = played(drawn(seed), obedient(), matched=False)
    assert last.phase == "failed"
    assert last.reason == "too_slow"


@settings(max_examples=100, deadline=None)
@given(seeds, st.lists(st.tuples(angles, angles, st.booleans()), max_size=200))
def test_whatever_a_face_does_each_step_was_seen_turned_as_asked(seed, looks) -> None:
    """And what is over stays as it is."""
    challenge = drawn(seed)
    for number, (yaw, pitch, matched) in enumerate(looks):
        look = Look(yaw, pitch, matched, number * FRAME_NS)
        before, challenge = challenge, advance(challenge, look)
        if before.over:
            assert challenge == before
        if challenge.done > before.done:
            assert before.phase == "turn"
            assert before.ahead is not None
            recent = (*before.recent, look)[-FRAMES:]
            mean = [sum(values) / FRAMES for values in zip(*((one.yaw, one.pitch) for one in recent), strict=True)]
            assert reached(before.steps[before.done], mean[0] - before.ahead[0], mean[1] - before.ahead[1])
            assert challenge.done == before.done + 1
        if challenge.phase == "passed":
            assert challenge.done == len(challenge.steps)


@settings(max_examples=100, deadline=None)
@given(seeds, st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1), angles, angles)
def test_a_still_picture_never_passes(seed, trembling, yaw, pitch) -> None:
    """However it trembles, as long as that is no turn."""
    shakes = itertools.cycle(trembling)

    def pose(prompt):
        dx, dy = next(shakes)
        return yaw + dx * AHEAD_YAW / 2, pitch + dy * AHEAD_PITCH / 2

    *_, last = played(drawn(seed), pose)
    assert last.phase == "failed"


@settings(max_examples=60, deadline=None)
@given(seeds, st.permutations(DIRECTIONS), st.integers(8, 30), st.integers(8, 30))
def test_a_film_passes_no_challenge_of_another_order(seed, order, hold, rest) -> None:
    challenge, number = drawn(seed), itertools.count()

    def film(prompt):
        place = next(number) % ((hold + rest) * len(order))
        step, inside = divmod(place, hold + rest)
        return (0.0, 0.0) if inside < rest else FAR[order[step]]

    *_, last = played(challenge, film)
    following = {one: order[(at + 1) % len(order)] for at, one in enumerate(order)}
    if any(following[one] != other for one, other in itertools.pairwise(challenge.steps)):
        assert last.phase == "failed" or rest + hold > 12  # slow films may skip a turn while the door waits


@pytest.mark.parametrize(
    ("asked", "yaw", "pitch", "ends"),
    [
        ("left", TURNED_YAW - 0.1, 0.0, "too_slow"),  # as far as a sheet of paper that is tilted seems to turn
        ("left", TURNED_YAW, 0.0, ""),
        ("left", AWAY_YAW - TURNED_YAW, 0.0, "too_slow"),
        ("left", -AWAY_YAW, 0.0, "other_way"),
        ("right", -TURNED_YAW, 0.0, ""),
        ("right", AWAY_YAW, 0.0, "other_way"),
        ("down", LEVEL_YAW, TURNED_PITCH, ""),
        ("down", LEVEL_YAW + 0.1, TURNED_PITCH, "too_slow"),  # on the way aside
        ("down", 0.0, -AWAY_PITCH, "other_way"),
        ("up", 0.0, -TURNED_PITCH, ""),
        ("up", 0.0, -TURNED_PITCH + 0.1, "too_slow"),
        ("up", AHEAD_YAW + 0.1, AWAY_PITCH, "too_slow"),  # nobody can hold the head that still: no other way
    ],
)
def test_a_turn_counts_from_where_no_flat_sheet_comes_and_another_one_ends_it(asked, yaw, pitch, ends) -> None:
    seen: list[str | None] = []

    def pose(prompt):
        seen.append(prompt)
        return (yaw, pitch) if seen[-DELAY:] == [asked] * DELAY else (0.0, 0.0)

    *_, last = played(of(asked), pose)
    assert last.reason == ends
    assert (last.phase == "passed") == (not ends)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 400), st.integers(MAX_GAP_NS + 1, 10**12))
def test_a_track_that_breaks_ends_it(seed, frames, gap) -> None:
    *_, challenge = played(drawn(seed), obedient(), frames=frames)
    if not challenge.over:
        assert unseen(challenge, challenge.last_ns + MAX_GAP_NS) == challenge
        for broken in (
            unseen(challenge, challenge.last_ns + gap),
            advance(challenge, Look(0, 0, True, challenge.last_ns + gap)),
            advance(challenge, Look(0, 0, True, challenge.last_ns - 1)),
        ):
            assert (broken.phase, broken.reason) == ("failed", "lost")


def test_who_turns_before_being_asked_fails() -> None:
    number = itertools.count()
    *_, last = played(of("left", "right"), lambda prompt: FAR["left"] if next(number) > 5 else (0.0, 0.0))
    assert (last.phase, last.reason) == ("failed", "moved")


def test_who_turns_sooner_than_anybody_reacts_fails() -> None:
    """As a film would that happens to turn just then."""
    challenge = of("left", "right")
    for number in range(100):
        yaw = AHEAD_YAW - 1 if challenge.phase == "pause" else 0.0
        yaw = 40.0 if challenge.phase == "turn" else yaw
        challenge = advance(challenge, Look(yaw, 0.0, True, number * 20_000_000))
    assert (challenge.phase, challenge.reason) == ("failed", "too_soon")


def asked(step: str, early: tuple[float, float], later: tuple[float, float], *, frame_ns: int) -> Challenge:
    """A challenge of that step and another, after it: turned ``early`` before anybody reacts, ``later`` from then on.

    Until the step was done or failed, or a second has passed since it was asked for.
    """
    challenge = of(step, "left" if step != "left" else "right")
    now, asked_ns = 0, None
    while not challenge.over and challenge.done == 0:
        if challenge.phase == "turn":
            asked_ns = challenge.began_ns if asked_ns is None else asked_ns
            if now - asked_ns > 1_000_000_000:
                break
            turned = early if now - asked_ns < MIN_REACTION_NS else later
        else:
            turned = (0.0, 0.0)
        challenge = advance(challenge, Look(*turned, True, now))
        now += frame_ns
    return challenge


RATES = [33_333_333, 50_000_000, 100_000_000, 125_000_000]  # nanoseconds a frame: 30, 20, 10 and 8 in a second
NEARLY = (TURNED_PITCH + AWAY_PITCH) / 2  # as far as is asked for, and no turn of somebody who was not


@pytest.mark.parametrize("frame_ns", RATES)
@pytest.mark.parametrize("step", ["up", "down"])
def test_no_frame_in_which_nobody_can_have_reacted_makes_a_turn(step, frame_ns) -> None:
    """A head that happens to nod when it is asked to, and stops: one frame later nothing is left of it."""
    sign = 1 if step == "down" else -1
    nodding = (0.0, sign * (AWAY_PITCH - 0.1))
    fading = (0.0, sign * (TURNED_PITCH - 0.5))  # a mean with frames of the nod would reach what was asked for
    challenge = asked(step, nodding, fading, frame_ns=frame_ns)
    assert (challenge.phase, challenge.done) == ("turn", 0)


@pytest.mark.parametrize("frame_ns", RATES)
@pytest.mark.parametrize("yaw", [0.0, AHEAD_YAW, TURNED_PITCH, NEARLY, AWAY_PITCH - 0.1])
@pytest.mark.parametrize("pitch", [-AWAY_PITCH + 0.1, -NEARLY, -TURNED_PITCH, 0.0, TURNED_PITCH, NEARLY])
@pytest.mark.parametrize("step", DIRECTIONS)
def test_a_head_that_sways_when_it_is_asked_and_then_turns_as_asked_is_let_on(step, pitch, yaw, frame_ns) -> None:
    challenge = asked(step, (yaw, pitch), FAR[step], frame_ns=frame_ns)
    assert (challenge.phase, challenge.done) == ("ahead", 1)


@pytest.mark.parametrize("frame_ns", RATES)
@pytest.mark.parametrize("step", DIRECTIONS)
def test_a_turn_takes_as_many_frames_whichever_way_was_asked_for(step, frame_ns) -> None:
    """Of who sways beforehand as of who stands still: the frames before count for neither."""
    sways = {"up": (0.0, -NEARLY), "down": (0.0, NEARLY), "left": (AWAY_YAW - 0.1, 0.0), "right": (0.1 - AWAY_YAW, 0.0)}
    swayed, stood = (asked(step, early, FAR[step], frame_ns=frame_ns).began_ns for early in (sways[step], (0.0, 0.0)))
    assert swayed == stood


def test_who_turns_another_way_fails() -> None:
    wrong = obedient()
    *_, last = played(of("left", "right"), lambda prompt: wrong("right" if prompt == "left" else prompt))
    assert (last.phase, last.reason) == ("failed", "other_way")


def test_who_does_nothing_is_too_slow() -> None:
    *_, last = played(of("up", "right"), lambda prompt: (0.0, 0.0))
    assert (last.phase, last.reason) == ("failed", "too_slow")


def test_one_frame_is_no_turn() -> None:
    """A landmark that jumps once moves the mean of three by a third."""
    jumps = itertools.count()
    *_, last = played(of("left", "right"), lambda prompt: (30.0 if next(jumps) % 12 == 11 else 0.0, 0.0))
    assert last.done == 0
    assert last.phase == "failed"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_angles_that_are_no_numbers_pass_nothing(bad) -> None:
    for pose in (lambda prompt: (bad, bad), lambda prompt: (0.0, bad) if prompt == "up" else (0.0, 0.0)):
        *_, last = played(of("up", "left"), pose)
        assert last.phase == "failed"


def test_the_prompts_say_what_to_do() -> None:
    shown = [one.prompt for one in played(of("left", "up"), obedient())]
    assert [prompt for prompt, _ in itertools.groupby(shown)] == [
        "wait",
        "left",
        "front",
        "wait",
        "up",
        "front",
        "wait",
        None,
    ]
