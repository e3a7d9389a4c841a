# SPDX-License-Identifier: Apache-2.0
"""Decisions of synthetic people, whose true tails are known: what calibration measures, extrapolates and refuses."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from msgspec.structs import replace

from agent.errors import RefusedError
from agent.match.policy import TARGETS, Probing, parse_policy
from tests.simulators.gallery_life import MODEL
from tools.lib.evaluate import decisions, extrapolation
from tools.lib.evaluate.calibrate import GALLERIES, measure
from tools.lib.evaluate.decisions import People, by_name, impostors, interval, mated, named, tail, unit

PROBE = Probing(first=3, most=5, spacing_ms=200, mirror=0.9, agreement=0.0)
NONE = np.zeros((0, 128), np.float32)


def people(count: int, pictures: int, *, noise: float = 0.06, seed: int = 1, dimensions: int = 40) -> People:
    """People whose faces fill ``dimensions`` of 128: scores of strangers then spread as a real network's do."""
    rng = np.random.default_rng(seed)
    true = np.zeros((count, 128))
    true[:, :dimensions] = rng.normal(size=(count, dimensions))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    made = np.repeat(true, pictures, 0) + rng.normal(size=(count * pictures, 128)) * noise
    return by_name([f"p{n // pictures}" for n in range(count * pictures)], unit(made.astype(np.float32)))


def test_pictures_in_which_nobody_is_found_are_nobodys() -> None:
    vectors = np.eye(128, dtype=np.float32)[:5]
    vectors[1] = np.nan
    grouped = by_name(["b", "b", "a", "b", "a"], vectors)
    assert [sorted(int(grouped.vectors[row].argmax()) for row in rows) for rows in grouped.rows] == [[2, 4], [0, 3]]
    assert grouped.having(2) == [0, 1]
    assert grouped.having(3) == []


def test_only_different_people_with_enough_pictures_are_compared_and_pairs_are_counted_once() -> None:
    rows = [np.array(r) for r in ([0, 1, 2], [3, 4], [5], [6, 7, 8, 9])]
    few = People(unit(np.random.default_rng(0).normal(size=(10, 128)).astype(np.float32)), rows)
    assert impostors(few, 1, 1, 0).pairs == 6
    found = impostors(few, 3, 1, 0)
    assert (list(found.probed), list(found.enrolled), found.people) == ([0, 3], [0, 1, 2, 3], 2)
    assert found.pairs == 5
    assert np.all(found.a != found.b)


def test_where_it_is_measured_the_share_at_a_threshold_is_what_the_tail_says() -> None:
    made = people(400, 1)
    table = tail(impostors(made, 1, 1, 0), 0)
    scores = (made.vectors @ made.vectors.T)[np.triu_indices(400, 1)]
    assert table.measured_to == pytest.approx(3 / (400 * 399 / 2), rel=1e-3)
    for point in table.points:
        if point.fmr >= 3e-4:
            assert np.mean(scores >= point.threshold) == pytest.approx(point.fmr, rel=0.15)
        assert point.low <= point.threshold <= point.high


def test_the_extrapolated_threshold_errs_on_the_safe_side_and_its_interval_widens() -> None:
    table = tail(impostors(people(120, 3), 3, 3, 0), 0)
    many = people(3000, 3, seed=2)
    means = many.means(many.having(3), 3, np.random.default_rng(0))
    scores = np.sort((means @ means.T)[np.triu_indices(3000, 1)])
    for fmr in (1e-4, 1e-5):
        true = scores[-round(len(scores) * fmr)]
        assert table.threshold(fmr).state == "extrapolated"
        assert table.threshold(fmr).value >= true - 0.01
    widths = [point.high - point.low for point in table.points if point.fmr < table.measured_to]
    assert widths == sorted(widths)


def test_a_tail_of_too_few_people_is_refused_rather_than_made_up() -> None:
    with pytest.raises(ValueError, match="too few"):
        tail(impostors(people(20, 1), 1, 1, 0), 0)
    with pytest.raises(RefusedError, match="too few pictures"):
        measure(people(60, 2), NONE, model=MODEL, detectors=(MODEL,), target=1e-3, margin=0.05, probe=PROBE, seed=0)


def test_nobodys_picture_stands_on_both_sides_of_a_mated_search() -> None:
    made = people(5, 4, noise=1.0)
    assert mated(made, NONE, 3, 2, 5, 0) is None
    found = mated(made, NONE, 2, 2, 5, 0)
    assert found is not None
    assert found.own.max() < 0.9
    assert found.others.shape == (5, decisions.MATED_DRAWS, 4)


def test_a_search_fails_below_the_threshold_or_without_a_lead() -> None:
    found = decisions.Mated(np.array([[0.6, 0.6]], np.float32), np.array([[[0.2, 0.58], [0.2, 0.3]]], np.float32))
    assert found.missed(1, 0.5, 0.05).tolist() == [0]
    assert found.missed(2, 0.5, 0.05).tolist() == [0]
    assert found.missed(3, 0.5, 0.05).tolist() == [0.5]
    assert found.missed(3, 0.7, 0.0).tolist() == [1]
    with pytest.raises(ValueError, match="references of 3"):
        found.missed(4, 0.5, 0.05)


def test_an_interval_is_over_people_and_never_empty() -> None:
    mean, low, high = interval(np.array([0.0] * 40 + [1.0] * 10))
    assert (mean, 0.05 < low < 0.15, 0.25 < high < 0.36) == (0.2, True, True)
    assert interval(np.zeros(30)) == (0, 0, 0.1), "rule of three"


@pytest.mark.timeout(240)  # arithmetic of some seconds, on a machine that may be busy
def test_a_policy_carries_every_kind_of_decision_and_what_it_misses() -> None:
    fill = unit(np.random.default_rng(3).normal(size=(1000, 128)).astype(np.float32))
    policy = measure(
        people(50, 8), fill, model=MODEL, detectors=(MODEL,), target=1e-3, margin=0.05, probe=PROBE, seed=0
    )
    assert parse_policy(policy.canonical()) == policy
    assert [(one.probes, one.captures) for one in policy.decisions] == [(1, 1), (1, 3), (3, 1), (3, 3), (5, 3)]
    decision = policy.decision(3)
    assert (decision.people, decision.impostors.people) == (50, 50)
    assert [(one.target, one.gallery) for one in decision.misses] == [(t, g) for t in TARGETS for g in GALLERIES]
    assert policy.probe.agreement == policy.single.threshold(1e-2).value
    assert policy.covered_references >= 1000
    stricter = replace(policy, target_fpir=1e-4)
    assert stricter.threshold(100, 3).value > policy.threshold(100, 3).value
    smaller = measure(
        people(50, 8), NONE, model=MODEL, detectors=(MODEL,), target=1e-3, margin=0.05, probe=PROBE, seed=0
    )
    assert max(one.gallery for one in smaller.decision(3).misses) == 10, "no gallery larger than there are people"


def test_the_tail_of_some_people_is_counted_on_others_and_one_person_under_two_names_shows() -> None:
    made = people(300, 1)
    how = argparse.Namespace(seed=0, fit=100, probes=1, captures=1)
    found = [extrapolation.split(made, list(range(300)), how, number) for number in range(6)]
    fmr, fpir = (np.mean([one[place] for one in found], axis=0) for place in (0, 1))
    assert {one[2] for one in found} == {199}
    assert fmr[0] == pytest.approx(1e-2, rel=0.2)
    assert fmr[1] == pytest.approx(1e-3, rel=0.4)
    assert fpir[0] < 2e-2
    twice = People(np.concatenate([made.vectors, made.vectors[:1]]), [*made.rows, np.array([300])])
    again = np.mean([extrapolation.split(twice, list(range(301)), how, number)[1] for number in range(6)], axis=0)
    assert again[2] > 10 * TARGETS[2]


def test_who_is_in_the_pictures_under_another_name_as_well_is_left_out() -> None:
    vectors = np.eye(128, dtype=np.float32)[:3]
    assert len(named(["a", "b", "b"], vectors, ["a"]).rows) == 1
    assert len(named(["a", "b", "b"], vectors, []).rows) == 2
    with pytest.raises(RefusedError, match="nobody called c"):
        named(["a", "b", "b"], vectors, ["c"])
