# SPDX-License-Identifier: Apache-2.0
"""Who a track is: by the probe of its crops, one identity per face, one match per visit."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.embed.records import Embedding
from agent.gallery.references import References
from agent.match.compare import compare
from agent.match.decide import HOPELESS, STANDING_NS, VISIT_NS, Decider, Decision
from agent.match.policy import Probing
from agent.match.probe import MAX_AGE_NS, MAX_PROBES, MAX_REFUSED, RECHECK_NS, Seen
from agent.match.records import Candidate, Match
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import MODEL
from tests.unit.test_match_policy import DECISION, SINGLE, policy

FRAME = 100_000_000  # ns
ANNA, BO, CY = (SubjectId(bytes([i]) * 16) for i in (1, 2, 3))
PEOPLE = (ANNA, BO, CY)
VECTORS = np.linalg.qr(np.random.default_rng(1).normal(size=(128, 128)))[0][:4].astype(np.float32)
GALLERY = References(PEOPLE, VECTORS[:3].copy(), MODEL)
STRANGER = 3
PROBING = Probing(first=3, most=5, spacing_ms=100, mirror=0.8, agreement=0.3)
POLICY = policy(probe=PROBING, decisions=(SINGLE, DECISION))
SIZE = len(PEOPLE)


def seen(who: int, *, like: float = 0.9, mirror: float = 0.95, also: int | None = None) -> Seen:
    """A crop with cosine ``like`` to the person; the rest is ``also``'s, or nobody's."""
    rest = VECTORS[also] if also is not None else np.linalg.qr(
        np.vstack([VECTORS, np.random.default_rng(9).normal(size=(1, 128))]).T)[0][:, 4].astype(np.float32)  # fmt: skip
    vector = like * VECTORS[who] + np.sqrt(1 - like**2) * rest
    return Seen(Embedding(np.asarray(vector / np.linalg.norm(vector), np.float32), MODEL), mirror)


def play(decider: Decider, now: int, crops: dict[int, Seen], references: References = GALLERY) -> Decision:
    """One frame."""
    for track, crop in crops.items():
        if decider.wants(track, now):
            decider.take(track, crop, now)
    found = decider.compare(partial(compare, references=references), now)
    return decider.update(found, gallery_size=len(references.subjects), zone="door", timestamp_ns=now)


def run(decider: Decider, *frames: dict[int, Seen], start: int = 0) -> list[tuple[SubjectId, ...]]:
    """Subjects matched in each frame."""
    out = []
    for number, crops in enumerate(frames):
        decision = play(decider, start + number * FRAME, crops)
        assert set(decision.matches) <= set(decision.seen)
        out.append(tuple(match.subject for match in decision.matches))
    return out


def repeat(count: int, *people: int, **how: float) -> list[dict[int, Seen]]:
    return [{track: seen(who, **how) for track, who in enumerate(people)} for _ in range(count)]


def test_no_single_crop_is_a_match_and_the_mean_of_the_first_three_is() -> None:
    assert run(Decider(POLICY), *repeat(3, 0)) == [(), (), (ANNA,)]


def test_below_threshold_or_margin_is_nobody() -> None:
    limit = POLICY.threshold(SIZE, 3).value
    assert run(Decider(POLICY), *repeat(30, 0, like=limit - 0.01)) == [()] * 30
    torn = [{0: seen(0, like=0.72, also=1)} for _ in range(30)]  # Bo is as near but for 0.026
    assert run(Decider(POLICY), *torn) == [()] * 30


def test_who_is_missed_at_the_first_look_is_found_at_the_last() -> None:
    limit = POLICY.threshold(SIZE, 3).value
    weak, good = seen(0, like=limit - 0.05), partial(seen, 0, like=0.9)
    assert run(Decider(POLICY), *[{0: weak}, *[{0: seen(0, like=limit - 0.05)} for _ in range(2)],
                                  *[{0: good()} for _ in range(2)]])[-1] == (ANNA,)  # fmt: skip


def test_the_threshold_is_that_of_the_gallery_in_use() -> None:
    decider, like = Decider(POLICY), POLICY.threshold(SIZE, 3).value + 0.01
    crops = repeat(3, 0, like=like)
    assert run(decider, *crops)[-1] == (ANNA,)
    for fresh in (decider, Decider(POLICY)):  # also of one that knew a smaller gallery
        fresh.begin_act()
        for number, frame in enumerate(repeat(3, 0, like=like)):
            fresh.take(0, frame[0], number * FRAME)
            found = fresh.compare(partial(compare, references=GALLERY), number * FRAME)
            decision = fresh.update(found, gallery_size=400, zone="door", timestamp_ns=number * FRAME)
        assert not decision.seen


def test_a_face_swapped_within_a_track_decides_nothing() -> None:
    assert run(Decider(POLICY), {0: seen(0)}, {0: seen(0)}, {0: seen(1)}, {0: seen(0)}, {0: seen(1)}) == [()] * 5
    assert run(Decider(POLICY), *[{0: seen(n % 2)} for n in range(60)]) == [()] * 60


def test_a_track_that_names_two_people_is_neither() -> None:
    decider = Decider(POLICY)
    names = iter([ANNA, BO])
    for number in range(3):
        decider.take(0, seen(0), number * FRAME)
        found = decider.compare(lambda _: Candidate(next(names), 0.9, 0.5), number * FRAME)
        decision = decider.update(found, gallery_size=SIZE, zone="door", timestamp_ns=number * FRAME)
    assert [match.subject for match in decision.seen] == [ANNA]
    later = 2 * FRAME + RECHECK_NS
    decider.take(0, seen(0), later)
    found = decider.compare(lambda _: Candidate(next(names), 0.9, 0.5), later)
    assert not decider.update(found, gallery_size=SIZE, zone="door", timestamp_ns=later).seen
    assert len(decider._probes) == 0, "it starts anew"


def test_the_next_in_the_queue_is_found_once_enough_crops_are_theirs() -> None:
    decider = Decider(POLICY)
    assert run(decider, *repeat(3, 0))[-1] == (ANNA,)
    later = 2 * FRAME + RECHECK_NS
    assert run(decider, *repeat(3, 1), start=later) == [(), (), (BO,)]


def test_of_two_faces_that_claim_a_person_only_the_better_may_win() -> None:
    decider = Decider(POLICY)
    frames = [{0: seen(0, like=0.7), 1: seen(0, like=0.9)} for _ in range(3)]
    assert run(decider, *frames)[-1] == (ANNA,)
    assert decider._claims[1].held
    assert not decider._claims[0].held


def test_two_faces_that_claim_a_person_equally_are_both_nobody() -> None:
    decider = Decider(POLICY)
    for number in range(30):
        decision = play(decider, number * FRAME, {0: seen(0), 1: seen(0)})
        assert not decision.matches
        assert not decision.seen
        assert not decision.named


def test_a_face_beside_the_matched_one_does_not_take_over_the_match() -> None:
    decider = Decider(POLICY)
    run(decider, *repeat(3, 0))
    decision = Decision((), (), {})
    for number in range(3, 6):
        decision = play(decider, number * FRAME, {1: seen(0, like=0.6)})
    assert not decision.seen


def test_two_people_are_matched_side_by_side() -> None:
    assert set(run(Decider(POLICY), *repeat(3, 0, 1))[-1]) == {ANNA, BO}


def test_somebody_who_stays_is_matched_once_seen_all_the_while_and_embedded_once_a_second() -> None:
    decider, confirmed, taken = Decider(POLICY), 0, 0
    for number in range(1000):
        taken += decider.wants(0, number * FRAME)
        decision = play(decider, number * FRAME, {0: seen(0)})
        confirmed += len(decision.seen)
        assert bool(decision.matches) == (number == 2)
    assert confirmed == 1 + 99
    assert taken == 3 + 99


def test_somebody_who_is_not_enrolled_is_tried_ever_more_rarely() -> None:
    decider, taken = Decider(POLICY), 0
    for number in range(600):
        taken += decider.wants(0, number * FRAME)
        assert not play(decider, number * FRAME, {0: seen(STRANGER)}).seen
    assert taken <= 50, "in a minute; 5 crops an attempt, with pauses of 1, 2, 4 and then 8 s"


@pytest.mark.parametrize(("below", "crops"), [(HOPELESS + 0.01, 3), (HOPELESS - 0.01, 5), (0.01, 5)])
def test_an_attempt_that_is_far_from_everybody_ends_with_its_first_comparison(below: float, crops: int) -> None:
    decider, taken = Decider(POLICY), 0
    for number in range(8):
        taken += decider.wants(0, number * FRAME)
        play(decider, number * FRAME, {0: seen(0, like=POLICY.threshold(SIZE, 3).value - below)})
    assert taken == crops
    assert decider.rests(0)


def test_who_came_near_is_matched_by_the_crops_that_follow() -> None:
    near = POLICY.threshold(SIZE, 3).value - HOPELESS / 2
    assert run(Decider(POLICY), *repeat(3, 0, like=near), *repeat(2, 0, like=0.98))[-1] == (ANNA,)


def test_a_decided_track_is_sure_of_crops_that_agree_and_of_no_others() -> None:
    decider = Decider(POLICY)
    assert not decider.is_sure(0, seen(0).embedding), "nobody was decided"
    run(decider, *repeat(2, 0))
    assert not decider.rests(0)
    assert not decider.is_sure(0, seen(0).embedding), "nor yet"
    run(decider, *repeat(1, 0), start=2 * FRAME)
    assert decider.rests(0)
    assert decider.is_sure(0, seen(0).embedding)
    assert not decider.is_sure(0, seen(1).embedding)
    assert not decider.is_sure(0, seen(0, like=0.5, also=1).embedding)
    decider.forget_all()
    assert not decider.rests(0)
    assert not decider.is_sure(0, seen(0).embedding)


def test_a_track_that_breaks_does_not_make_a_second_visit() -> None:
    decider = Decider(POLICY)
    assert run(decider, *repeat(3, 0))[-1] == (ANNA,)
    decider.forget([0])
    assert run(decider, *[{1: seen(0)} for _ in range(5)], start=VISIT_NS // 2) == [()] * 5
    decider.forget([1])
    assert run(decider, *[{2: seen(0)} for _ in range(3)], start=2 * VISIT_NS)[-1] == (ANNA,)


def test_after_a_pause_without_frames_the_same_person_is_a_new_visit() -> None:
    decider = Decider(POLICY)
    assert run(decider, *repeat(3, 0))[-1] == (ANNA,)
    for gap_ns, expected in ((VISIT_NS - 1, ()), (2 * VISIT_NS, (ANNA,))):
        start = gap_ns + 2 * FRAME  # counted from the last frame before it
        for number in range(3):
            assert decider.take(7, seen(0), start + (number - 2) * FRAME)
        found = decider.compare(partial(compare, references=GALLERY), start)
        decision = decider.update(found, gallery_size=SIZE, zone="door", timestamp_ns=start)
        assert tuple(match.subject for match in decision.seen) == (ANNA,)
        assert tuple(match.subject for match in decision.matches) == expected
        decider.forget([7])


def test_a_probe_dies_with_its_track() -> None:
    decider = Decider(POLICY)
    run(decider, *repeat(2, 0))
    decider.forget([0])
    assert len(decider._probes) == 0
    assert run(decider, *repeat(1, 0), start=2 * FRAME) == [()]


def test_an_erased_subject_leaves_no_probe_and_no_claim() -> None:
    decider = Decider(POLICY)
    run(decider, *repeat(3, 0, 1))
    sums = [probe.total for probe in decider._probes._held.values()]
    decider.forget_subject(ANNA)
    assert len(decider._probes) == 0
    assert not any(one.any() for one in sums)
    assert ANNA not in decider._visits
    assert BO in decider._visits
    assert not decider._claims


def test_a_claim_that_nobody_confirms_lapses() -> None:
    decider = Decider(POLICY)
    run(decider, *repeat(3, 0))
    play(decider, 2 * FRAME + STANDING_NS, {})
    assert not decider._claims
    play(decider, 2 * FRAME + STANDING_NS + MAX_AGE_NS, {})
    assert len(decider._probes) == 0


def test_named_people_who_look_aside_before_they_go_hold_nobody_up() -> None:
    """Their claims lapse, and they are nobody for the rest of their track: but no face that was tried in vain."""
    decider, now = Decider(POLICY), 0
    for track in range(5):
        run(decider, *({track: seen(track % 3)} for _ in range(3)), start=now)
        assert decider._claims
        now += 3 * FRAME + STANDING_NS
        play(decider, now, {})
        assert not decider._claims
        decider.forget([track])
        assert decider.wants(track + 1, now), "whoever comes next is looked at"


def test_memory_is_bounded_even_if_nobody_says_who_is_gone() -> None:
    decider = Decider(POLICY)
    for number in range(1000):
        play(decider, number, {number: seen(0)})
    assert len(decider._probes) <= MAX_PROBES
    assert len(decider._claims) <= MAX_PROBES


acts = st.lists(
    st.tuples(
        st.integers(0, 600_000_000),
        st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 3), st.booleans()), max_size=4),
        st.sampled_from(["", "", "", "die", "pause", "erase"]),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(acts)
def test_whatever_comes_no_track_is_two_people_and_enough_good_crops_are_behind_each_match(history) -> None:
    decider, now = Decider(POLICY), 0
    crops: dict[int, list[int]] = {}  # of each track since it last began, whose crops it was given
    last_seen: dict[SubjectId, int] = {}
    for step, shown, act in history:
        now += step
        if act == "die":
            decider.forget([0])
            crops.pop(0, None)
        elif act:
            decider.forget_all() if act == "pause" else decider.forget_subject(ANNA)
            crops.clear()
            assert len(decider._probes) == 0
            last_seen = {} if act == "pause" else {s: at for s, at in last_seen.items() if s != ANNA}
            if act == "pause":
                decider._visits.clear()
        taken = {track: who for track, (who, _) in shown.items() if decider.wants(track, now)}
        held = {track: probe.refused for track, probe in decider._probes._held.items()}
        decision = play(decider, now, {t: seen(who, mirror=0.9 if good else 0.2) for t, (who, good) in shown.items()})
        for track, who in taken.items():
            if shown[track][1] or held.get(track, 0) >= MAX_REFUSED:
                crops.setdefault(track, []).append(who)
        subjects = [match.subject for match in decision.seen]
        assert len(set(subjects)) == len(subjects)
        for match in decision.matches:
            mine = PEOPLE.index(match.subject)
            assert any(list_[-3:] == [mine] * 3 for list_ in crops.values()), "the last three crops are all theirs"
            assert now - last_seen.get(match.subject, -VISIT_NS) >= VISIT_NS
        last_seen.update(dict.fromkeys(subjects, now))


@pytest.mark.parametrize("first", [1, 2])
def test_rules_with_fewer_crops_are_kept_as_well(first: int) -> None:
    rules = replace(PROBING, first=first)
    made = policy(probe=rules, decisions=(SINGLE, replace(DECISION, probes=1)))
    assert run(Decider(made), *repeat(first, 0)) == [()] * (first - 1) + [(ANNA,)]


def test_what_is_seen_says_where_when_by_what_and_whether_it_was_live() -> None:
    decider = Decider(POLICY)
    for now in range(0, 3 * FRAME, FRAME):
        decider.take(0, seen(0), now)
        found = decider.compare(partial(compare, references=GALLERY), now)
        decision = decider.update(
            found, gallery_size=SIZE, zone="door", timestamp_ns=now, vouch=lambda *_: "passed", method="token"
        )
    whole = Match(ANNA, "door", 2 * FRAME, liveness="passed", method="token")
    assert (decision.seen, decision.matches, decision.named) == ((whole,), (whole,), {0: ANNA})


@pytest.mark.parametrize(("away", "anew"), [(VISIT_NS - 1, False), (VISIT_NS, True)])
def test_a_visit_ends_after_its_time_out_of_view_and_no_sooner(away: int, anew: bool) -> None:
    decider = Decider(POLICY)
    assert run(decider, *repeat(3, 0))[-1] == (ANNA,)
    decider.forget([0])
    assert run(decider, *repeat(3, 0), start=away)[-1] == ((ANNA,) if anew else ())


def test_who_names_nobody_or_is_refused_keeps_nobody_else_from_being_matched() -> None:
    assert run(Decider(POLICY), *repeat(3, STRANGER, 0, 1))[-1] == (ANNA, BO)
    decider = Decider(POLICY)
    for now in range(0, 3 * FRAME, FRAME):
        for track_id, who in enumerate((0, 1)):
            decider.take(track_id, seen(who), now)
        found = decider.compare(partial(compare, references=GALLERY), now)
        decision = decider.update(
            found, gallery_size=SIZE, zone="door", timestamp_ns=now,
            vouch=lambda *of: "failed" if of == (0, ANNA) else "passed" if of == (1, BO) else "not_checked",
        )  # fmt: skip
    assert [(match.subject, match.liveness) for match in decision.matches] == [(BO, "passed")]
    assert decision.named == {0: ANNA, 1: BO}
