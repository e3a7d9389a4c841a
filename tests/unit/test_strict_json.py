# SPDX-License-Identifier: Apache-2.0
"""The one decoder of foreign bytes: one reading, one error; and what is written is fit for a terminal."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from agent.strict_json import MAX_DEPTH, MAX_SAFE_INTEGER, StrictJsonError, decode, dumps, loads

LIMIT = 100_000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


class Known(msgspec.Struct, forbid_unknown_fields=True):
    """A record with one of each kind of member."""

    name: Annotated[str, msgspec.Meta(max_length=8)]
    data: dict[str, Any] = {}
    share: float = 0.0


@given(VALUES)
def test_what_is_plain_is_read_as_it_is(value: object) -> None:
    assert loads(json.dumps(value).encode(), limit=LIMIT) == value


@given(VALUES, st.sampled_from([None, 2]))
def test_what_is_written_is_read_again_and_shows_on_any_terminal(value: object, indent: int | None) -> None:
    text = dumps(value, indent=indent)
    assert all(c == "\n" or (c.isascii() and c.isprintable()) for c in text)
    assert json.loads(text) == value


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_the_record_or_the_one_error(content: bytes) -> None:
    with contextlib.suppress(StrictJsonError):
        assert isinstance(decode(content, Known, LIMIT), Known)


@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_depth_is_bounded_where_it_is_said(bracket: str) -> None:
    def nested(levels: int) -> bytes:
        step = "[" if bracket == "[]" else '{"x":'
        inner = step * (levels - 1) + bracket + bracket[1] * (levels - 1)
        return inner.encode()

    loads(nested(MAX_DEPTH), limit=LIMIT)
    for levels in (MAX_DEPTH + 1, 200, 990, 1100, 10_000):
        with pytest.raises(StrictJsonError, match="nested too deeply"):
            loads(nested(levels), limit=LIMIT)


def test_brackets_in_a_text_and_beside_one_another_are_no_depth() -> None:
    assert loads(json.dumps(["[" * 500]).encode(), limit=LIMIT) == ["[" * 500]
    assert loads(json.dumps([[]] * 500).encode(), limit=LIMIT) == [[]] * 500


@pytest.mark.parametrize("content", ["1.5", "1e3", "-0.0", "NaN", "Infinity", "9007199254740992", "1e999"])
def test_numbers_that_readers_disagree_about_are_refused(content: str) -> None:
    with pytest.raises(StrictJsonError):
        loads(content.encode(), limit=LIMIT)


@pytest.mark.parametrize("content", ["NaN", "-Infinity", "1e999", "-1e999", "1." + "0" * 40])
def test_fractions_are_finite_where_they_may_be(content: str) -> None:
    assert loads(b"0.25", limit=LIMIT, floats=True) == 0.25
    with pytest.raises(StrictJsonError):
        loads(content.encode(), limit=LIMIT, floats=True)


def test_fraction_is_read_where_the_record_has_one_and_the_caller_says_so() -> None:
    content = b'{"name":"x","share":0.5}'
    assert decode(content, Known, LIMIT, floats=True).share == 0.5
    with pytest.raises(StrictJsonError):
        decode(content, Known, LIMIT)


def test_longer_bytes_are_not_looked_at() -> None:
    with pytest.raises(StrictJsonError, match="longer than 4 bytes"):
        decode(b"\xff" * 5, Known, 4)
