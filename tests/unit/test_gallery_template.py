# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import CaptureRefusedError
from agent.gallery.template import mean_reference, place, rotate, rotation_signs, seal, unrotate, unseal
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import captures, unit_vector

SECRET = bytes(range(32))


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))
def test_a_rotation_turns_back_exactly_and_keeps_all_scores(subject, secret, seed) -> None:
    rng = np.random.default_rng(seed)
    a, b = unit_vector(rng), unit_vector(rng)
    ra, rb = rotate(a, secret, SubjectId(subject)), rotate(b, secret, SubjectId(subject))
    assert float(ra @ rb) == pytest.approx(float(a @ b), abs=1e-6)
    assert abs(float(a @ ra)) < 0.6, "the vector really was turned"
    rows = np.stack([ra, rb])
    unrotate(rows, secret, [SubjectId(subject)] * 2)
    assert np.allclose(rows, np.stack([a, b]), atol=1e-6)


def test_a_gallery_of_many_subjects_is_turned_back_row_by_row() -> None:
    rng = np.random.default_rng(0)
    subjects = [SubjectId(secrets.token_bytes(16)) for _ in range(1100)]  # more than are turned at once
    vectors = np.stack([unit_vector(rng) for _ in subjects])
    rows = np.stack([rotate(v, SECRET, s) for v, s in zip(vectors, subjects, strict=True)])
    unrotate(rows, SECRET, subjects)
    assert np.allclose(rows, vectors, atol=1e-6)


def test_each_subject_and_each_gallery_has_a_rotation_of_its_own() -> None:
    a, b = SubjectId(bytes(16)), SubjectId(bytes(15) + b"\1")
    one = rotation_signs(SECRET, a)
    for other in (rotation_signs(SECRET, b), rotation_signs(bytes(32), a)):
        assert one.shape == (3, 128)
        assert 0.35 < (one == other).mean() < 0.65


def test_the_rotation_is_the_matrix_product_it_says() -> None:
    hadamard = np.array([[1.0]])
    while len(hadamard) < 128:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= np.sqrt(128)
    subject = SubjectId(bytes(16))
    d1, d2, d3 = (np.diag(signs) for signs in rotation_signs(SECRET, subject))
    vector = unit_vector(np.random.default_rng(0))
    assert np.allclose(
        rotate(vector, SECRET, subject), hadamard @ d1 @ hadamard @ d2 @ hadamard @ d3 @ vector, atol=1e-6
    )


def test_a_reference_is_the_unit_mean_of_its_captures() -> None:
    rng = np.random.default_rng(0)
    person = unit_vector(rng)
    reference = mean_reference(captures(rng, person, 5))
    assert np.linalg.norm(reference) == pytest.approx(1, abs=1e-6)
    assert reference.dtype == np.float32
    assert float(reference @ person) > 0.98


@pytest.mark.parametrize(
    "broken",
    [
        lambda v: v[:2],
        lambda v: v + v,
        lambda v: [*v[:3], v[3] * 1.1],
        lambda v: [*v[:3], v[3][:64]],
        lambda v: [*v[:3], v[3] * np.nan],
        lambda v: [v[0], -v[0], v[1], -v[1]],
    ],
)
def test_captures_that_make_no_reference_are_refused(broken) -> None:
    with pytest.raises(CaptureRefusedError):
        mean_reference(broken(captures(np.random.default_rng(0))))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 10**6), st.integers(1, 255))
def test_a_seal_opens_unchanged_in_its_place_alone(content, at, flip) -> None:
    key, where = bytes(32), place(b"template", b"anna", b"model")
    sealed = seal(content, key=key, place=where, random=secrets.token_bytes)
    assert unseal(sealed, key=key, place=where) == content
    changed = bytearray(sealed)
    changed[at % len(sealed)] ^= flip
    assert unseal(bytes(changed), key=key, place=where) is None
    assert unseal(sealed, key=key, place=place(b"template", b"bo", b"model")) is None
    assert unseal(sealed, key=bytes(31) + b"\1", place=where) is None
    assert unseal(sealed[: at % len(sealed)], key=key, place=where) is None


def test_parts_of_a_place_cannot_run_together() -> None:
    assert place(b"record", b"ab", b"c") != place(b"record", b"a", b"bc") != place(b"recorda", b"", b"bc")
