# SPDX-License-Identifier: Apache-2.0
"""The one decoder of foreign bytes: one reading, one error; and what is written is fit for a terminal."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from agent.parse.strict_json import MAX_DEPTH, MAX_SAFE_INTEGER, StrictJsonError, decode, dumps, loads

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


MEET = """
import sys, threading
from typing import Annotated
import msgspec
from agent.parse.strict_json import convert

sys.setswitchinterval(1e-6)
THREADS = 4

def meet(kind, start):
    start.wait()
    convert({name: "a" for name in kind.__struct_fields__}, kind)

for number in range(100):
    fields = [(f"f{n}", Annotated[str, msgspec.Meta(pattern=f"^a{{{n}}}b{{{number}}}|a$")]) for n in range(8)]
    start = threading.Barrier(THREADS)
    kind = msgspec.defstruct("Kind", fields)
    threads = [threading.Thread(target=meet, args=(kind, start)) for _ in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
"""


def test_threads_that_meet_a_kind_for_the_first_time_at_once_do_not_end_the_process() -> None:
    """Two outputs of a bridge did, at its start."""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", MEET], cwd=root, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
