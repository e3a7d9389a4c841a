# SPDX-License-Identifier: Apache-2.0
"""Answers: what the unit signed for this command is read, and nothing else, whatever the bytes are."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from agent.errors import VerificationError
from agent.keys import UnitKey
from agent.protocol.response import MAX_RESPONSE_BYTES, Asked, command_digest, read_response
from agent.protocol.trust import TrustedUnits, TrustList, UnitKeyEntry
from tests.simulators.answering import answers
from tests.simulators.desk import trusting

KEY = UnitKey.generate()
TRUSTED = trusting({"door-1": KEY})
ASKED = Asked("hq", "door-1", "selftest", "t-1", command_digest(b"a.b.c"))
SAID = answers(KEY)
DATA = st.dictionaries(
    st.text(max_size=8),
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(max_size=20)
    | st.lists(st.text(), max_size=3),
    max_size=5,
)


def answer(data: dict[str, Any] | None = None, **options: Any) -> bytes:
    return SAID.answer("selftest", ASKED.command, "t-1", data or {}, None, **options)


@settings(max_examples=50, deadline=None)
@given(data=DATA, number=st.integers(1, 2**53 - 1))
def test_answer_is_read_as_it_was_given(data: dict[str, Any], number: int) -> None:
    told = read_response(answer(data, number=number), ASKED, TRUSTED, above=number - 1)
    assert (told.status, told.transaction, told.data or {}, told.number) == ("ok", "t-1", data, number)
    with pytest.raises(VerificationError) as refusal:
        read_response(answer(data, number=number), ASKED, TRUSTED, above=number)
    assert refusal.value.reason == "replayed"


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "replace")))
def test_no_bytes_are_an_answer_without_the_units_signature(content: bytes) -> None:
    with pytest.raises(VerificationError):
        read_response(content, ASKED, TRUSTED)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow])
@given(at=st.integers(0, 5000), what=st.integers(1, 255), how=st.sampled_from(["flip", "cut", "grow"]))
def test_altered_answer_is_none(at: int, what: int, how: str) -> None:
    payload = bytearray(answer({"receipt": "x"}))
    at %= len(payload)
    if how == "flip":
        payload[at] ^= what
    elif how == "cut":
        del payload[at]
    else:
        payload[at:at] = bytes([what])
    with pytest.raises(VerificationError):
        read_response(bytes(payload), ASKED, TRUSTED)


def test_answer_to_another_command_of_the_same_transaction_is_none() -> None:
    """Whoever repeats a transaction's name gets no answer of before for the command of now."""
    before = SAID.answer("selftest", command_digest(b"a.b.d"), "t-1", {}, None)
    with pytest.raises(VerificationError) as refusal:
        read_response(before, ASKED, TRUSTED)
    assert refusal.value.reason == "another"


@pytest.mark.parametrize("data", [{"x": object()}, {"x": 0.5}, {"x": "y" * MAX_RESPONSE_BYTES}, {"x": 2**53}])
def test_answer_that_nobody_could_read_says_so_and_can_be_read(data: dict[str, Any]) -> None:
    told = read_response(answer(data), ASKED, TRUSTED)
    assert told.status == "error"
    assert told.error in ("fault", "too_large")
    assert told.data is None


@pytest.mark.parametrize(
    ("change", "reason"), [({"status": "revoked"}, "revoked"), ({"until": "2099-01-01T00:00:00Z"}, "revoked")]
)
def test_key_that_was_revoked_or_replaced_answers_nothing(change: dict[str, Any], reason: str) -> None:
    """A replaced key counts for events that wait; an answer never waits."""
    entry = msgspec.structs.replace(UnitKeyEntry(jwk=KEY.public_jwk(), status="active"), **change)
    listed = TrustList(version=1, site="hq", serial=1, issued_at="2026-01-05T08:00:00Z", units={"door-1": (entry,)})
    with pytest.raises(VerificationError) as refusal:
        read_response(answer(), ASKED, TrustedUnits(listed))
    assert refusal.value.reason == reason


def test_answers_of_a_unit_before_signed_ones_are_told_from_noise() -> None:
    for content, reason in (
        ({"status": "ok", "transaction": "t-1"}, "unsigned"),
        ({"status": "error", "transaction": None, "error": "wrong_key"}, "unsigned"),
        ({"status": "ok", "transaction": "t-2"}, "another"),
        ({"status": "perhaps", "transaction": "t-1"}, "malformed"),
    ):
        with pytest.raises(VerificationError) as refusal:
            read_response(json.dumps(content).encode(), ASKED, TRUSTED)
        assert refusal.value.reason == reason
