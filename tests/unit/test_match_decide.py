# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.match.decide import MAX_VOTERS, PATIENCE, RECHECK_NS, VISIT_NS, Voter
from agent.match.policy import Votes
from agent.match.records import Candidate
from agent.subject import SubjectId
from tests.unit.test_match_policy import policy

FRAME = 100_000_000  # ns
ANNA, BO, CY = (SubjectId(bytes([i]) * 16) for i in (1, 2, 3))
POLICY = policy(votes=Votes(3, 5, 1500))
SIZE = 10  # references: the threshold is 0.35


def claim(subject: SubjectId, score: float = 0.6, margin: float = 0.3) -> Candidate:
    return Candidate(subject, score, margin)


def run(voter: Voter, *frames: dict, start: int = 0) -> list[tuple[bytes, ...]]:
    """Subjects matched in each frame."""
    out = []
    for number, claims in enumerate(frames):
        decision = voter.update(claims, gallery_size=SIZE, zone="door", timestamp_ns=start + number * FRAME)
        assert set(decision.matches) <= set(decision.seen)
        out.append(tuple(m.subject for m in decision.matches))
    return out


def test_a_match_needs_its_votes() -> None:
    assert run(Voter(POLICY), {0: claim(ANNA)}, {0: claim(ANNA)}) == [(), ()]
    assert run(Voter(POLICY), *[{0: claim(ANNA)}] * 3) == [(), (), (ANNA,)]
    assert run(Voter(POLICY), {0: claim(ANNA)}, {0: None}, {0: claim(ANNA)}, {0: None}, {0: claim(ANNA)})[-1] == (ANNA,)


def test_votes_that_lie_too_far_apart_do_not_count_together() -> None:
    voter = Voter(POLICY)
    for number in range(6):
        decision = voter.update({0: claim(ANNA)}, gallery_size=SIZE, zone="door", timestamp_ns=number * 1_000_000_000)
        assert not decision.matches


@pytest.mark.parametrize("weak", [claim(ANNA, score=0.34), claim(ANNA, margin=0.04), None])
def test_below_threshold_or_margin_is_nobody(weak) -> None:
    assert run(Voter(POLICY), *[{0: weak}] * 20) == [()] * 20


def test_the_threshold_is_that_of_the_gallery_in_use() -> None:
    voter, frame = Voter(POLICY), {0: claim(ANNA, score=0.36)}
    for now in range(5):
        assert not voter.update(frame, gallery_size=1000, zone="door", timestamp_ns=now).seen
    assert [len(voter.update(frame, gallery_size=10, zone="door", timestamp_ns=9 + i).seen) for i in range(3)] == [
        0,
        0,
        1,
    ]


def test_of_two_faces_that_claim_a_person_only_the_better_may_win() -> None:
    voter = Voter(POLICY)
    frames = [{0: claim(ANNA, 0.5), 1: claim(ANNA, 0.7)}] * 8
    assert run(voter, *frames) == [(), (), (ANNA,), *[()] * 5]
    voter.forget([1])
    assert run(voter, {0: None}, start=9 * FRAME) == [()], "the other had no vote"


def test_two_faces_that_claim_a_person_equally_are_both_nobody() -> None:
    assert run(Voter(POLICY), *[{0: claim(ANNA, 0.7), 1: claim(ANNA, 0.7)}] * 8) == [()] * 8


def test_a_track_that_claims_two_people_is_neither() -> None:
    assert run(Voter(POLICY), *[{0: claim(ANNA)}, {0: claim(BO)}] * 6) == [()] * 12
    frames = [{0: claim(ANNA)}, {0: claim(BO)}, {0: claim(BO)}, {0: claim(BO)}]
    assert run(Voter(POLICY), *frames) == [()] * 4


def test_the_next_in_the_queue_is_found_once_the_votes_for_the_first_are_out() -> None:
    voter = Voter(POLICY)
    frames = [{0: claim(ANNA)}] * 4 + [{0: claim(BO)}] * 5
    assert [m for matches in run(voter, *frames) for m in matches] == [ANNA, BO]
    assert run(Voter(POLICY), *frames).index((BO,)) == 8, "not before all five votes are Bo's"


def test_two_people_are_matched_side_by_side() -> None:
    assert run(Voter(POLICY), *[{0: claim(ANNA), 1: claim(BO)}] * 3)[-1] == (ANNA, BO)


def test_somebody_who_stays_is_matched_once_and_seen_all_the_while() -> None:
    voter, seen = Voter(POLICY), 0
    for number in range(1000):
        decision = voter.update({0: claim(ANNA)}, gallery_size=SIZE, zone="door", timestamp_ns=number * FRAME)
        seen += len(decision.seen)
        assert bool(decision.matches) == (number == 2)
    assert seen == 998


def test_a_track_that_breaks_does_not_make_a_second_visit() -> None:
    voter = Voter(POLICY)
    assert run(voter, *[{0: claim(ANNA)}] * 3)[-1] == (ANNA,)
    voter.forget([0])
    assert run(voter, *[{1: claim(ANNA)}] * 5, start=VISIT_NS // 2) == [()] * 5
    voter.forget([1])
    assert run(voter, *[{2: claim(ANNA)}] * 3, start=2 * VISIT_NS) == [(), (), (ANNA,)]


def test_votes_die_with_their_track() -> None:
    voter = Voter(POLICY)
    run(voter, {0: claim(ANNA)}, {0: claim(ANNA)})
    voter.forget([0])
    assert run(voter, {0: claim(ANNA)}, start=2 * FRAME) == [()]


def test_an_erased_subject_leaves_no_vote() -> None:
    voter = Voter(POLICY)
    run(voter, *[{0: claim(ANNA), 1: claim(BO)}] * 3)
    voter.forget_subject(ANNA)
    assert ANNA not in voter._visits
    assert all(s != ANNA for b in voter._ballots.values() for _, s in b.votes)
    assert BO in voter._visits


def test_a_decided_track_is_probed_once_a_second_and_at_once_in_doubt() -> None:
    voter = Voter(POLICY)
    assert voter.wants(0, 0)
    run(voter, {0: claim(ANNA)}, {0: claim(ANNA)})
    assert voter.wants(0, 2 * FRAME)
    run(voter, {0: claim(ANNA)}, start=2 * FRAME)
    assert not voter.wants(0, 3 * FRAME)
    assert voter.wants(0, 2 * FRAME + RECHECK_NS)
    run(voter, {0: None}, start=2 * FRAME + RECHECK_NS)
    assert voter.wants(0, 3 * FRAME + RECHECK_NS)


def test_faces_tried_against_the_gallery_are_slowed_down() -> None:
    voter, made = Voter(POLICY), 0
    for number in range(3600 * 10):  # an hour at ten frames a second
        now = number * FRAME
        if voter.wants(0, now):
            made += 1
            voter.update({0: None}, gallery_size=SIZE, zone="door", timestamp_ns=now)
    assert made <= PATIENCE + 3600
    run(voter, {0: claim(ANNA)}, start=3600 * 10 * FRAME)
    assert voter.wants(0, 3600 * 10 * FRAME + 1), "somebody who takes off a mask is not kept waiting"


def test_memory_is_bounded_even_if_nobody_says_who_is_gone() -> None:
    voter = Voter(POLICY)
    for number in range(1000):
        voter.update({number: claim(ANNA)}, gallery_size=SIZE, zone="door", timestamp_ns=number)
    assert len(voter._ballots) <= MAX_VOTERS


scores = st.floats(-1, 1)
candidates = st.none() | st.builds(Candidate, st.sampled_from([ANNA, BO, CY]), scores, st.floats(0, 1))
frames = st.lists(
    st.tuples(st.integers(0, 400_000_000), st.dictionaries(st.integers(0, 3), candidates, max_size=4)), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(frames)
def test_whatever_comes_one_identity_per_frame_and_enough_good_votes_behind_each_match(history) -> None:
    voter, now = Voter(POLICY), 0
    good: dict[int, list[tuple[int, SubjectId]]] = {}
    last_seen: dict[SubjectId, int] = {}
    for step, claims in history:
        now += step
        for track_id, c in claims.items():
            if c is not None and c.score >= 0.35 and c.margin >= POLICY.margin:
                good.setdefault(track_id, []).append((now, c.subject))
        decision = voter.update(claims, gallery_size=SIZE, zone="door", timestamp_ns=now)
        subjects = [m.subject for m in decision.seen]
        assert len(set(subjects)) == len(subjects)
        for match in decision.matches:
            assert any(
                len([1 for at, s in votes if s == match.subject and now - at <= 1_500_000_000]) >= POLICY.votes.needed
                for votes in good.values()
            )
            assert now - last_seen.get(match.subject, -VISIT_NS) >= VISIT_NS
        last_seen.update(dict.fromkeys(subjects, now))
