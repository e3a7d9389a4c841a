# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.match.presence import Presence, PresenceChange
from agent.match.records import Match
from agent.protocol.subject import SubjectId

ANNA, BO, CY = (SubjectId(bytes([i]) * 16) for i in (1, 2, 3))
SECOND = 1_000_000_000


def sighting(subject: SubjectId, at: int, zone: str = "door") -> Match:
    return Match(subject, zone, at * SECOND)


def test_presence_says_arrived_once_and_left_when_last_seen() -> None:
    presence = Presence(hold_ns=60 * SECOND)
    assert presence.update([sighting(ANNA, 0)], 0) == [PresenceChange(ANNA, "arrived", "door", 0)]
    for second in range(1, 100):
        assert presence.update([sighting(ANNA, second)], second * SECOND) == []
    assert presence.update([], 158 * SECOND) == []
    assert presence.update([], 159 * SECOND) == [PresenceChange(ANNA, "left", "door", 99 * SECOND)]
    assert presence.update([], 500 * SECOND) == []


def test_presence_follows_a_change_of_zone() -> None:
    presence = Presence()
    presence.update([sighting(ANNA, 0)], 0)
    changes = presence.update([sighting(ANNA, 1, "yard")], SECOND)
    assert [(c.state, c.zone) for c in changes] == [("left", "door"), ("arrived", "yard")]


def test_presence_is_bounded_and_lets_the_longest_unseen_go() -> None:
    presence = Presence(max_present=2)
    presence.update([sighting(ANNA, 0)], 0)
    presence.update([sighting(BO, 1)], SECOND)
    presence.update([sighting(ANNA, 2)], 2 * SECOND)
    changes = presence.update([sighting(CY, 3)], 3 * SECOND)
    assert [(c.subject, c.state) for c in changes] == [(CY, "arrived"), (BO, "left")]


def test_an_erased_subject_does_not_even_leave() -> None:
    presence = Presence(hold_ns=SECOND)
    presence.update([sighting(ANNA, 0)], 0)
    presence.forget_subject(ANNA)
    assert presence.update([], 100 * SECOND) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.sets(st.sampled_from([ANNA, BO, CY]))), max_size=40))
def test_arrived_and_left_alternate_for_each_subject(history) -> None:
    presence, states, now = Presence(hold_ns=60 * SECOND), {}, 0
    for step, subjects in history:
        now += step
        for change in presence.update([sighting(s, now) for s in sorted(subjects)], now * SECOND):
            assert states.get(change.subject, "left") != change.state
            states[change.subject] = change.state
        assert all(states[s] == "arrived" for s in subjects)


def test_who_brought_their_reference_along_is_not_followed() -> None:
    presence = Presence(hold_ns=1_000_000_000)
    assert presence.update([Match(SubjectId(b"t" * 16), "gate", 0, method="token")], 0) == []
    assert presence.update([], 60_000_000_000) == []


def test_who_brought_their_reference_keeps_nobody_else_from_being_present() -> None:
    seen = [Match(SubjectId(b"t" * 16), "gate", 5, method="token"), Match(SubjectId(b"a" * 16), "gate", 5)]
    changes = Presence().update(seen, 5)
    assert [(one.subject, one.state, one.zone, one.timestamp_ns) for one in changes] == [
        (SubjectId(b"a" * 16), "arrived", "gate", 5)
    ]
