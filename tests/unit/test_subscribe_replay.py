# SPDX-License-Identifier: Apache-2.0
"""What a subscriber makes of a unit's answers: nothing is given up that was not asked for, nobody asked on and on."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from agent.clock import SimulatedClock
from agent.errors import VerificationError
from agent.keys import SigningKey, UnitKey
from agent.protocol.grant import SEPARATOR, make_grant
from agent.protocol.response import command_digest
from agent.subscribe.chain import Gap
from agent.subscribe.replay import AGAIN_S, ANSWER_S, PACE_S, SETTLE_S, VERB, Found, Replays
from tests.simulators.answering import answers
from tests.simulators.desk import read_command, trusting

UNIT = "door-2"
GAP = Gap(2, 9)
CHALLENGE = ("challenge", "the unit does not know the time")


class Asking:
    """A subscriber that misses events 2 to 9 of a unit, whose key signs whatever a test wants."""

    def __init__(self) -> None:
        self.clock, self.key, ask = SimulatedClock(), UnitKey.generate(), SigningKey.generate()
        grant = make_grant("auditor", ask, SigningKey.generate(), site="hq", now=self.clock.now())
        self.replays = Replays(ask, grant, site="hq", clock=self.clock, random=secrets.token_bytes)

    def asks(self) -> list[bytes]:
        """The questions that are due."""
        return [payload for _, payload in self.replays.questions({UNIT: GAP})]

    def first(self) -> bytes:
        assert self.asks() == [], "what merely overtook is there soon"
        self.clock.advance(SETTLE_S)
        (payload,) = self.asks()
        return payload

    def answered(self, question: bytes, data: dict[str, Any] | None = None, failure: Any = None, **more: Any) -> Any:
        """What the subscriber makes of the unit's answer to ``question``."""
        transaction = self.command(question)["transaction"]
        signed = answers(self.key, UNIT).answer(VERB, command_digest(question), transaction, data, failure, **more)
        return self.replays.take(f"postern/hq/{UNIT}/response/{VERB}", signed, trusting({UNIT: self.key}))

    @staticmethod
    def command(question: bytes) -> dict[str, Any]:
        return read_command(question.partition(SEPARATOR.encode())[2])


@pytest.fixture
def asking() -> Asking:
    return Asking()


def test_what_the_unit_keeps_no_more_is_given_up(asking: Asking) -> None:
    told = {"first": 2, "through": 9, "events": [], "gone": [[2, 5], [7, 9]]}
    assert asking.answered(asking.first(), told) == Found(UNIT, (), (Gap(2, 5), Gap(7, 9)))


@pytest.mark.parametrize("gone", [[1, 9], [2, 10], [3, 2], [10, 20]])
def test_nothing_is_given_up_that_was_not_asked_for(asking: Asking, gone: list[int]) -> None:
    """A unit that was taken over would have an auditor believe that nothing is missing."""
    with pytest.raises(VerificationError, match="other events than it was asked for"):
        asking.answered(asking.first(), {"first": 2, "through": 9, "events": [], "gone": [gone]})


def test_a_unit_that_does_not_know_the_time_is_asked_once_more_with_its_nonce(asking: Asking) -> None:
    assert asking.answered(asking.first(), failure=CHALLENGE, nonce="11" * 16) is None
    asking.clock.advance(PACE_S)
    (again,) = asking.asks()
    assert asking.command(again)["nonce"] == "11" * 16
    assert asking.answered(again, {"first": 2, "through": 9, "events": [], "gone": []}) == Found(UNIT, (), ())


def test_a_unit_that_challenges_every_question_is_asked_less_often(asking: Asking) -> None:
    assert asking.answered(asking.first(), failure=CHALLENGE, nonce="11" * 16) is None
    asking.clock.advance(PACE_S)
    (again,) = asking.asks()
    with pytest.raises(VerificationError, match="does not say again what is missing"):
        asking.answered(again, failure=CHALLENGE, nonce="22" * 16)
    asking.clock.advance(AGAIN_S.least_s - 0.1)
    assert asking.asks() == []
    asking.clock.advance(AGAIN_S.first_s)
    (later,) = asking.asks()
    assert asking.command(later).get("nonce") is None, "its nonce is no more good"


@pytest.mark.parametrize("closed", [True, False])
def test_a_unit_whose_answers_close_nothing_is_asked_less_often(asking: Asking, *, closed: bool) -> None:
    assert asking.answered(asking.first(), {"first": 2, "through": 9, "events": [], "gone": []})
    asking.replays.judge(UNIT, closed=closed)
    asking.clock.advance(PACE_S)
    assert bool(asking.asks()) is closed
    asking.clock.advance(AGAIN_S.first_s)
    assert asking.asks() or closed, "and not given up"


def test_a_unit_that_does_not_answer_is_asked_again_later_each_time(asking: Asking) -> None:
    asking.first()
    asking.clock.advance(ANSWER_S)
    assert asking.asks() == [], "it is away"
    asking.clock.advance(AGAIN_S.least_s - 0.1)
    assert asking.asks() == []
    asking.clock.advance(AGAIN_S.first_s)
    assert len(asking.asks()) == 1


def test_subscriber_waits_no_longer_than_until_the_next_question(asking: Asking) -> None:
    """A long gap is closed as fast as units may be asked, not by one answer for each time that nothing came."""
    wait_s = asking.replays.wait_s
    assert wait_s(0.5) == 0.5, "there is nothing to ask"
    assert asking.asks() == []
    assert wait_s(60) == SETTLE_S
    asking.clock.advance(SETTLE_S - 0.1)
    assert wait_s(60) == pytest.approx(0.1)
    asking.clock.advance(1)
    assert wait_s(60) == PACE_S, "due, and no faster than units are asked"
    assert len(asking.asks()) == 1
    assert wait_s(60) == ANSWER_S
    assert asking.replays.questions({}) == []
    assert wait_s(60) == 60, "nothing is missing any more"
