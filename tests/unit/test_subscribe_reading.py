# SPDX-License-Identifier: Apache-2.0
"""An event is read in one pass where its bytes allow one reading alone; that never makes two opinions of one event."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import VerificationError
from agent.outbox.draft import Draft
from agent.parse import strict_json
from agent.protocol.event import MAX_EVENT_BYTES, Event, canonical, read_canonical
from agent.protocol.names import parse_time
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.signing_unit import START, SigningUnit, match_draft, presence_draft, unit_draft, verifier_of

LOST = {"first": 1, "last": 4, "count": 2, "reason": "full"}


def drafts(unit: SigningUnit) -> list[Draft]:
    match, own = match_draft(unit.clock), unit_draft(unit.clock)
    return [
        match,
        Draft(match.kind, match.time, match.clock, {**match.facts, "granted": "door strike-2"}),
        presence_draft(unit.clock),
        own,
        Draft(own.kind, own.time, own.clock, {"condition": "loss", "lost": LOST}),
    ]


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    unit = SigningUnit(tmp_path_factory.mktemp("unit") / "outbox.db")
    said = [unit.say(draft).payload for draft in drafts(unit)]
    unit.outbox.close()
    return said


def the_long_way(payload: bytes) -> tuple[Event, bytes]:
    members = strict_json.loads(payload, limit=MAX_EVENT_BYTES)
    return msgspec.convert(members, Event), canonical(members)


def test_what_a_unit_sends_is_read_in_one_pass(payloads: list[bytes]) -> None:
    for payload in payloads:
        assert read_canonical(payload) == the_long_way(payload)


def swapped(payload: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(payload).items())), separators=(",", ":")).encode()


SECOND_READINGS: dict[str, Callable[[bytes], bytes]] = {
    "a blank": lambda payload: payload.replace(b":", b": ", 1),
    "a line feed after it": lambda payload: payload + b"\n",
    "a mark before it": lambda payload: b"\xef\xbb\xbf" + payload,
    "another order": swapped,
    "a member twice": lambda payload: payload.replace(b'"seq":1', b'"seq":1,"seq":1'),
    "two members of one name": lambda payload: payload.replace(b'"seq":1', b'"seq":2,"seq":1'),
    "a member nobody knows": lambda payload: payload.replace(b'"seq":1', b'"seq":1,"score":1'),
    "a member that says nothing": lambda payload: payload.replace(b'"liveness"', b'"granted":null,"liveness"'),
    "a letter spelt otherwise": lambda payload: payload.replace(b'"door"', b'"do\\u006fr"'),
    "a number with a point": lambda payload: payload.replace(b'"seq":1', b'"seq":1.0'),
    "a number with an exponent": lambda payload: payload.replace(b'"seq":1', b'"seq":1e0'),
    "a number too long": lambda payload: payload.replace(b'"seq":1', b'"seq":9007199254740993'),
    "the type of another kind": lambda payload: payload.replace(b"io.postern.match.v1", b"io.postern.unit.v1"),
    "no signature": lambda payload: payload.replace(b'"sig":"', b'"gis":"'),
    "too deep": lambda payload: b"[" * 4000,
    "no text": lambda payload: payload.replace(b"door", b"d\xff\xfer"),
}


@pytest.mark.parametrize("how", SECOND_READINGS)
def test_whatever_could_be_read_twice_takes_the_long_way(payloads: list[bytes], how: str) -> None:
    altered = SECOND_READINGS[how](payloads[0])
    assert altered != payloads[0]
    assert read_canonical(altered) is None


@settings(max_examples=120)
@given(which=st.integers(0, 4), at=st.integers(0, 900), byte=st.integers(0, 255), cut=st.integers(0, 2))
@example(which=0, at=0, byte=0x7B, cut=0)
def test_no_bytes_are_read_in_two_ways(payloads: list[bytes], which: int, at: int, byte: int, cut: int) -> None:
    payload = payloads[which]
    altered = payload[:at] + bytes([byte]) + payload[at + cut :]
    if (found := read_canonical(altered)) is not None:
        assert found == the_long_way(altered)


def test_a_batch_is_judged_as_one_after_the_other(tmp_path: Path) -> None:
    """Good and bad ones mixed: every outcome, every word and what is remembered afterwards."""
    unit, stranger = SigningUnit(tmp_path / "outbox.db"), SigningUnit(tmp_path / "other.db", "door-4")
    rows = [unit.say(draft) for draft in [*drafts(unit), *drafts(unit)]]
    said = [(unit.topic(row), row.payload) for row in rows]
    foreign = stranger.say()
    other_history = unit.sign({**json.loads(rows[6].payload), "time": "2026-11-22T09:40:00Z"})
    messages = [
        *said[:3],
        said[1],  # again
        (said[3][0], said[3][1].replace(b"camera_back", b"camera_lost")),
        said[5],  # over a gap
        (stranger.topic(foreign), foreign.payload),
        (said[0][0], said[6][1]),
        ("postern/hq/door-4/event/match", said[6][1]),
        (said[3][0], b"[]"),
        (said[3][0], b" " * (MAX_EVENT_BYTES + 1)),
        said[3],  # late
        said[6],
        (said[6][0], other_history),  # a fork
        said[7],  # quarantined
    ]
    single, together = verifier_of(unit), verifier_of(unit)
    expected: list[VerifiedEvent | tuple[str, str]] = []
    for topic, payload in messages:
        try:
            expected.append(single.check(topic, payload, START))
        except VerificationError as error:
            expected.append((error.reason, str(error)))
    outcomes = together.check_all(messages, START)
    assert [(one.reason, str(one)) if isinstance(one, VerificationError) else one for one in outcomes] == expected
    assert together.export() == single.export()
    reasons = {one[0] for one in expected if isinstance(one, tuple)}
    assert reasons >= {"duplicate", "bad_signature", "unknown_unit", "wrong_unit", "malformed", "too_large", "fork"}
    assert expected[-1] == (
        "quarantined",
        "the key is quarantined (fork) until you release it",
    )


@pytest.mark.parametrize(
    "text", ["2026-11-22T24:00:00Z", "2026-11-22T23:59:60Z", "2026-02-30T00:00:00Z", "20261122T094103Z"]
)
def test_a_moment_that_there_is_not_is_refused_by_every_version_of_python(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_time(text)
