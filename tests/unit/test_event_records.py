# SPDX-License-Identifier: Apache-2.0
"""Drafts: what happened, with a time no finer than asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agent.match.records import Match
from agent.outbox.draft import assemble, make_loss, make_match, make_presence, make_unit
from agent.protocol.event import Lost, canonical, digest
from agent.protocol.names import round_down
from agent.protocol.subject import SubjectId
from tests.simulators.signing_unit import DIGEST, START

SUBJECT = SubjectId(b"0123456789abcdef")


def test_match_becomes_a_draft_without_the_subject_id() -> None:
    draft = make_match(
        Match(SUBJECT, "door", 123_456_789),
        subject="p1_" + "00" * 16,
        audience="access",
        epoch="2026-W47",
        policy=DIGEST,
        model=DIGEST,
        now=START,
        clock="synced",
    )
    assert draft.kind == "match"
    assert draft.time == "2026-11-22T09:41:03Z"
    text = repr(draft)
    assert SUBJECT.hex() not in text
    assert "123456789" not in text  # the sensor's clock stays inside


def test_presence_has_a_state_and_no_policy() -> None:
    draft = make_presence(
        state="left",
        subject="p1_" + "00" * 16,
        audience="access",
        epoch="2026-W47",
        zone="door",
        now=START,
        clock="synced",
    )
    assert set(draft.facts) == {"state", "subject", "audience", "epoch", "zone"}
    assert draft.time == "2026-11-22T09:41:03Z"


def test_time_is_to_the_second_unless_a_step_is_asked_for() -> None:
    lost = Lost(first=3, last=9, count=4, reason="full")
    for step, expected in (({}, "2026-11-22T09:41:03Z"), ({"time_step_s": 60}, "2026-11-22T09:41:00Z")):
        assert make_unit("started", now=START, clock="synced", **step).time == expected
        assert make_loss(lost, now=START, clock="synced", **step).time == expected


def test_nobody_but_the_outbox_speaks_of_losses() -> None:
    with pytest.raises(ValueError, match="only the outbox"):
        make_unit("loss", now=START, clock="synced")
    lost = Lost(first=3, last=9, count=4, reason="full")
    assert make_loss(lost, now=START, clock="unsynced").facts["lost"] == {
        "first": 3,
        "last": 9,
        "count": 4,
        "reason": "full",
    }


@pytest.mark.parametrize(
    ("step", "expected"),
    [(1, "2026-11-22T09:41:03Z"), (60, "2026-11-22T09:41:00Z"), (3600, "2026-11-22T09:00:00Z")],
)
def test_time_is_rounded_down_to_the_configured_step(step: int, expected: str) -> None:
    assert round_down(START.replace(microsecond=999_999), step) == expected


@given(st.integers(0, 4_102_444_800), st.integers(1, 3600))
def test_rounded_time_is_never_ahead_and_at_most_one_step_behind(at: int, step: int) -> None:
    moment = datetime.fromtimestamp(at, UTC)
    rounded = datetime.strptime(round_down(moment, step), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert 0 <= (moment - rounded).total_seconds() < step


def test_signed_bytes_leave_the_signature_out() -> None:
    members = assemble(
        make_unit("started", now=START, clock="synced"), source="/postern/hq/u", boot="0" * 16, seq=1, prev=DIGEST
    )
    assert canonical({**members, "sig": "anything"}) == canonical(members)
    assert digest(canonical(members)).startswith("sha256:")


MEMBERS = st.none() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


@given(st.dictionaries(ASCII, MEMBERS | st.dictionaries(ASCII, MEMBERS, max_size=4), max_size=6))
def test_signed_bytes_are_those_of_rfc_8785(members: dict[str, Any]) -> None:
    members.pop("sig", None)
    assert canonical(members) == rfc8785.dumps(members)
