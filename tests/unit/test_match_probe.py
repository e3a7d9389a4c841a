# SPDX-License-Identifier: Apache-2.0
"""The running probe of a track: what it takes, what it refuses, and when it is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.embed.records import Embedding
from agent.match.policy import Probing
from agent.match.probe import (
    FIRST_REST_NS,
    LONGEST_REST_NS,
    MAX_AGE_NS,
    MAX_PROBES,
    MAX_REFUSED,
    MAX_TRIES,
    RECHECK_NS,
    Probes,
    Seen,
    both_ways,
)
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, unit_vector

SPACING = 100_000_000  # ns
RULES = Probing(first=3, most=5, spacing_ms=100, mirror=0.8, agreement=0.3)
RNG = np.random.default_rng(4)
ANNA, BO = unit_vector(RNG), unit_vector(RNG)


def crop(of: np.ndarray = ANNA, *, noise: float = 0.03, mirror: float = 0.95, model: str = MODEL) -> Seen:
    vector = of + RNG.normal(size=128) * noise
    return Seen(Embedding((vector / np.linalg.norm(vector)).astype(np.float32), model), mirror)


def feed(probes: Probes, *crops: Seen, start: int = 0, track: int = 0) -> list[bool]:
    """Whether the probe was due after each crop; the crops come at the named spacing."""
    due = []
    for number, seen in enumerate(crops):
        now = start + number * SPACING
        assert probes.wants(track, now)
        probes.add(track, seen, now)
        due.append(track in probes.due(now))
        probes.settle([], now)
    return due


def total(probes: Probes, track: int = 0) -> np.ndarray:
    return probes._held[track].total


def test_the_probe_is_the_unit_mean_of_the_crops() -> None:
    probes, crops = Probes(RULES), [crop() for _ in range(3)]
    mean = np.sum([seen.embedding.vector for seen in crops], axis=0)
    for number, seen in enumerate(crops):
        probes.add(0, seen, number * SPACING)
    (probe,) = probes.due(2 * SPACING).values()
    assert np.allclose(probe.vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert not any(seen.embedding.vector.any() for seen in crops), "single vectors do not outlive their crop"


def test_it_is_compared_at_the_first_number_of_crops_and_at_the_last_alone() -> None:
    assert feed(Probes(RULES), *(crop() for _ in range(5))) == [False, False, True, False, True]


def test_crops_are_spread_over_the_track() -> None:
    probes = Probes(RULES)
    feed(probes, crop())
    assert not probes.wants(0, SPACING - 1)
    assert probes.wants(0, SPACING)


def test_a_crop_whose_mirror_image_embeds_elsewhere_is_not_used() -> None:
    probes = Probes(RULES)
    assert feed(probes, crop(), crop(), crop(BO, mirror=0.79), crop()) == [False, False, False, True]
    assert probes.crops(0) == 3


def test_a_crop_that_contradicts_the_track_starts_it_anew() -> None:
    probes = Probes(RULES)
    feed(probes, crop(), crop())
    old = total(probes)
    assert not probes.add(0, crop(BO), 2 * SPACING)
    assert not old.any()
    assert probes.crops(0) == 1
    assert feed(probes, crop(BO), crop(BO), start=3 * SPACING) == [False, True]


def test_numbers_that_are_none_are_a_contradiction_and_not_an_error() -> None:
    probes, broken = Probes(RULES), crop()
    feed(probes, crop())
    broken.embedding.vector[3] = np.nan
    assert not probes.add(0, broken, SPACING)
    assert not probes.add(0, crop(), 2 * SPACING), "nothing agrees with it"


def test_another_models_crop_is_never_added_to_this_ones() -> None:
    probes = Probes(RULES)
    feed(probes, crop(), crop(), crop(model=OTHER_MODEL))
    assert probes.crops(0) == 1


def test_an_attempt_that_decides_nothing_is_overwritten_and_the_track_rests_longer_each_time() -> None:
    probes, now, rests = Probes(RULES), 0, []
    for _ in range(6):
        feed(probes, *(crop() for _ in range(4)), start=now)
        held = total(probes)
        feed(probes, crop(), start=now + 4 * SPACING)
        assert not held.any()
        assert len(probes) == 0
        now += 4 * SPACING
        woken = next(step for step in range(1, 1000) if probes.wants(0, now + step * SPACING))
        rests.append((woken - 1) * SPACING)
        now += woken * SPACING
    assert rests == [FIRST_REST_NS, 2 * FIRST_REST_NS, 4 * FIRST_REST_NS, *[LONGEST_REST_NS] * 3]


def test_where_every_crop_is_unclear_they_are_used_after_a_few() -> None:
    probes = Probes(RULES)
    due = feed(probes, *(crop(mirror=0.5) for _ in range(MAX_REFUSED + RULES.most)))
    assert [number for number, one in enumerate(due) if one] == [MAX_REFUSED + 2, MAX_REFUSED + 4]
    assert not probes.wants(0, len(due) * SPACING)


def test_an_attempt_in_which_most_crops_are_refused_ends() -> None:
    probes = Probes(RULES)
    feed(probes, *(crop(mirror=0.5 if number % 4 else 0.9) for number in range(MAX_TRIES)))
    assert not probes.wants(0, MAX_TRIES * SPACING)


def test_a_settled_track_is_looked_at_once_a_second_and_compared_each_time() -> None:
    probes = Probes(RULES)
    feed(probes, crop(), crop(), crop())
    probes.settle([0], 2 * SPACING)
    now = 2 * SPACING
    for _ in range(30):
        assert not probes.wants(0, now + RECHECK_NS - 1)
        now += RECHECK_NS
        assert probes.wants(0, now)
        probes.add(0, crop(), now)
        assert list(probes.due(now)) == [0]
        probes.settle([0], now)
    assert probes.crops(0) == RULES.most


def test_a_refused_crop_confirms_nobody() -> None:
    probes = Probes(RULES)
    feed(probes, crop(), crop(), crop())
    probes.settle([0], 2 * SPACING)
    probes.add(0, crop(mirror=0.1), 2 * SPACING + RECHECK_NS)
    assert not probes.due(2 * SPACING + RECHECK_NS)


@pytest.mark.parametrize("crops", [1, 2, 4])
def test_who_comes_to_no_decision_is_overwritten_after_ten_seconds(crops: int) -> None:
    probes = Probes(RULES)
    feed(probes, *(crop() for _ in range(crops)))
    held = total(probes)
    probes.settle([], MAX_AGE_NS - 1)
    assert held.any()
    probes.settle([], MAX_AGE_NS)
    assert not held.any()
    assert len(probes) == 0


def test_crops_that_come_slowly_do_not_make_a_probe_live_longer() -> None:
    probes = Probes(RULES)
    for now in (0, 4_900_000_000):
        probes.add(0, crop(), now)
        probes.settle([], now)
    probes.settle([], MAX_AGE_NS)
    assert len(probes) == 0


def test_a_track_that_died_leaves_nothing() -> None:
    probes = Probes(RULES)
    feed(probes, crop(), crop())
    feed(probes, crop(), start=SPACING, track=1)
    first, second = total(probes), total(probes, 1)
    probes.forget([0, 7])
    assert not first.any()
    assert second.any()
    probes.forget_all()
    assert not second.any()
    assert not probes._held


def test_of_a_crops_mirror_image_nothing_is_kept_but_the_agreement() -> None:
    made: list[tuple[np.ndarray, Embedding]] = []

    def embed(picture: np.ndarray) -> Embedding:
        made.append((picture, Embedding((ANNA if len(made) == 0 else BO).copy(), MODEL)))
        return made[-1][1]

    shown = np.random.default_rng(0).integers(1, 255, (112, 112, 3)).astype(np.uint8)
    seen = both_ways(embed, shown)
    assert np.array_equal(seen.embedding.vector, ANNA)
    assert seen.mirror == pytest.approx(float(ANNA @ BO), abs=1e-6)
    assert not made[1][0].any(), "the mirrored crop is overwritten"
    assert not made[1][1].vector.any(), "and its vector"


def test_a_crop_that_is_enough_by_itself_has_no_mirror_image() -> None:
    made = []

    def embed(picture: np.ndarray) -> Embedding:
        made.append(picture)
        return Embedding(ANNA.copy(), MODEL)

    seen = both_ways(embed, np.zeros((112, 112, 3), np.uint8), enough=lambda embedding: embedding.model == MODEL)
    assert len(made) == 1
    assert seen.mirror == 1.0


steps = st.lists(
    st.tuples(
        st.sampled_from(["crop", "other", "refused", "die", "pause", "settle"]),
        st.integers(0, 40),
        st.integers(0, 3_000_000_000),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_in_any_order_memory_is_bounded_and_what_is_forgotten_is_zero(history: list[tuple[str, int, int]]) -> None:
    probes, now, ever = Probes(RULES), 0, []
    for what, track, passed in history:
        now += passed
        if what in ("crop", "other", "refused") and probes.wants(track, now):
            seen = crop(BO if what == "other" else ANNA, mirror=0.5 if what == "refused" else 0.9)
            probes.add(track, seen, now)
            assert not seen.embedding.vector.any()
            ever.append(total(probes, track))
        elif what == "die":
            probes.forget([track])
        elif what == "pause":
            probes.forget_all()
        for probe in probes.due(now).values():
            assert np.linalg.norm(probe.vector) == pytest.approx(1, abs=1e-5)
        probes.settle([track] if what == "settle" else [], now)
        assert len(probes._held) <= MAX_PROBES
        living = {id(probe.total) for probe in probes._held.values()}
        assert not any(one.any() for one in ever if id(one) not in living)
        assert all((probe.crops <= RULES.most and probe.tries <= MAX_TRIES) or probe.settled or probe.resting_ns
                   for probe in probes._held.values())  # fmt: skip
    probes.forget_all()
    assert not any(one.any() for one in ever)
