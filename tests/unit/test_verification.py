# SPDX-License-Identifier: Apache-2.0
"""``verify``: one word for one person, for as long as it was asked, and seldom."""

from __future__ import annotations

import pytest

from agent.clock import SimulatedClock
from agent.detect.gate import ButtonGate
from agent.door.verification import MAX_QUESTIONS, PER_NS, Verification
from agent.errors import RefusedError
from agent.protocol.subject import SubjectId

ANN, BOB = SubjectId(b"a" * 16), SubjectId(b"b" * 16)


class Asked:
    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.told: list[tuple[str, str]] = []
        self.verification = Verification(self.clock, lambda name, answer: self.told.append((name, answer)))

    def ask(self, name: str = "q", window_s: object = 5) -> None:
        self.verification.begin(name, ANN, window_s)
        self.verification.take()

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.verification.expire()


@pytest.fixture
def asked() -> Asked:
    return Asked()


def test_the_person_is_verified_once(asked: Asked) -> None:
    asked.ask()
    assert not asked.verification.matched(BOB)
    assert asked.verification.matched(ANN)
    assert not asked.verification.matched(ANN)
    asked.wait(10)
    assert asked.told == [("q", "verified")]


@pytest.mark.parametrize(("acts", "answer"), [(True, "not_verified"), (False, "nobody")])
def test_the_end_of_the_window_is_an_answer(asked: Asked, acts: bool, answer: str) -> None:
    asked.ask()
    if acts:
        asked.verification.acting()
    asked.wait(4.9)
    assert asked.told == []
    asked.wait(0.1)
    assert asked.told == [("q", answer)]
    assert not asked.verification.matched(ANN), "too late"


def test_a_match_of_before_the_question_does_not_answer_it(asked: Asked) -> None:
    asked.verification.begin("q", ANN, 5)
    assert not asked.verification.matched(ANN)


@pytest.mark.parametrize("window_s", [2, 61, 0, -1, 5.0, "5", True, None])
def test_a_window_that_is_none_is_refused(asked: Asked, window_s: object) -> None:
    with pytest.raises(RefusedError, match="window_s is a number of seconds, 3 to 60"):
        asked.ask(window_s=window_s)


def test_one_question_at_a_time(asked: Asked) -> None:
    asked.ask()
    with pytest.raises(RefusedError) as refusal:
        asked.ask("other")
    assert refusal.value.reason == "verify_open"


def test_nobody_tries_out_faces_by_asking(asked: Asked) -> None:
    for number in range(MAX_QUESTIONS):
        asked.ask(str(number))
        asked.verification.matched(ANN)
    with pytest.raises(RefusedError) as refusal:
        asked.ask()
    assert refusal.value.reason == "too_many"
    asked.wait(PER_NS / 1e9)
    asked.ask()


def test_a_unit_that_stops_answers(asked: Asked) -> None:
    asked.ask()
    asked.verification.cancel()
    assert asked.told == [("q", "nobody")]


def test_no_frame_is_skipped_while_the_question_is_open() -> None:
    gate = ButtonGate(zone="cab", window_ns=5_000_000_000)
    gate.open_window(0, 30_000_000_000)
    assert [gate.waits(at) for at in (0, 29_999_999_999, 30_000_000_000)] == [True, True, False]
    gate.open_window(0, 3_000_000_000)
    assert not gate.waits(4_000_000_000)
    gate.open_window(0)
    gate.shut()
    assert not gate.waits(1)
