# SPDX-License-Identifier: Apache-2.0
"""Sessions that end soon after they began, one after the other, are told from a link that was lost."""

from __future__ import annotations

import pytest

from agent.clock import SimulatedClock
from agent.errors import BrokerError
from agent.mqtt.lasting import SUSPICIOUS, TWICE, Lasting
from agent.mqtt.refusals import CONNECTION_LOST, SESSION_TAKEN_OVER, ConnectionLostError

STABLE_S = 20.0
CUT = ConnectionLostError(CONNECTION_LOST, "broker:8883")


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


@pytest.fixture
def lasting(clock: SimulatedClock) -> Lasting:
    return Lasting(clock, STABLE_S)


def sessions(lasting: Lasting, clock: SimulatedClock, *seconds: float) -> list[str]:
    """What is told at the end of sessions that last so long and are then cut."""
    told = []
    for lasts_s in seconds:
        lasting.began()
        clock.advance(lasts_s)
        told.append(lasting.ended(CUT))
    return told


def test_short_sessions_in_a_row_name_who_may_share_the_certificate(lasting: Lasting, clock: SimulatedClock) -> None:
    told = sessions(lasting, clock, *[STABLE_S - 0.1] * SUSPICIOUS)
    assert [TWICE in text for text in told] == [False] * (SUSPICIOUS - 1) + [True]
    assert lasting.is_suspicious


def test_one_that_lasted_begins_the_count_anew(lasting: Lasting, clock: SimulatedClock) -> None:
    lasting.failures = 7
    told = sessions(lasting, clock, *[1.0] * (SUSPICIOUS - 1), STABLE_S, *[1.0] * (SUSPICIOUS - 2))
    assert not any(TWICE in text for text in told)
    assert lasting.failures == 0, "pauses begin anew, too"


def test_recovery_is_news_once(lasting: Lasting, clock: SimulatedClock) -> None:
    sessions(lasting, clock, *[1.0] * SUSPICIOUS)
    lasting.began()
    clock.advance(STABLE_S - 0.1)
    assert not lasting.look()
    clock.advance(0.2)
    assert [lasting.look(), lasting.look()] == [True, False]


def test_a_broker_that_cannot_be_reached_is_no_session(lasting: Lasting) -> None:
    for _ in range(2 * SUSPICIOUS):
        assert lasting.ended(BrokerError("nothing listens there")) == "nothing listens there"
    assert not lasting.is_suspicious


def test_a_broker_that_says_why_is_not_guessed_about(lasting: Lasting) -> None:
    said = ConnectionLostError(SESSION_TAKEN_OVER, "broker:8883")
    for _ in range(SUSPICIOUS + 1):
        lasting.began()
        assert lasting.ended(said) == str(said)
    assert lasting.is_suspicious, "and yet it takes its time"
