# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.embed.records import Embedding
from agent.gallery.references import References
from agent.match.compare import compare
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, unit_vector


def gallery(n: int, seed: int = 0, model: str = MODEL) -> References:
    rng = np.random.default_rng(seed)
    rows = np.array([unit_vector(rng) for _ in range(n)], np.float32).reshape(n, 128)
    return References(tuple(SubjectId(i.to_bytes(16, "big")) for i in range(n)), rows, model)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_best_and_the_lead_are_those_of_a_plain_search(n, seed) -> None:
    references = gallery(n, seed)
    probe = Embedding(unit_vector(np.random.default_rng(seed + 1)), MODEL)
    scores = [float(np.dot(row.astype(float), probe.vector.astype(float))) for row in references.matrix]
    order = sorted(range(n), key=scores.__getitem__, reverse=True)
    found = compare(probe, references)
    assert found is not None
    assert found.subject == references.subjects[order[0]]
    assert found.score == pytest.approx(scores[order[0]], abs=1e-6)
    if n == 1:
        assert math.isinf(found.margin)
    else:
        assert found.margin == pytest.approx(scores[order[0]] - scores[order[1]], abs=2e-6)


def test_nobody_is_found_in_an_empty_gallery() -> None:
    assert compare(Embedding(unit_vector(np.random.default_rng(0)), MODEL), gallery(0)) is None


def test_templates_of_another_model_never_match() -> None:
    references = gallery(3, model=OTHER_MODEL)
    assert compare(Embedding(references.matrix[0], MODEL), references) is None


def test_numbers_that_are_none_match_nobody() -> None:
    for bad in (np.nan, np.inf):
        vector = unit_vector(np.random.default_rng(0))
        vector[5] = bad
        assert compare(Embedding(vector, MODEL), gallery(4)) is None


def test_comparison_leaves_gallery_and_probe_as_they_are() -> None:
    references = gallery(5)
    before = references.matrix.copy()
    probe = Embedding(before[2].copy(), MODEL)
    compare(probe, references)
    assert np.array_equal(references.matrix, before)
    assert np.array_equal(probe.vector, before[2])


def test_the_right_one_of_ten_thousand_is_found() -> None:
    references = gallery(10_000)
    found = compare(Embedding(references.matrix[77].copy(), MODEL), references)
    assert found is not None
    assert found.subject == references.subjects[77]
