# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.detect.face import Face
from agent.detect.track import MAX_MISSED_FRAMES, MAX_MISSED_NS, MAX_TRACKS, Tracker
from tests.simulators.heads import face

FRAME = 33_000_000  # ns


def test_a_face_that_walks_keeps_its_track() -> None:
    tracker = Tracker()
    seen = [tracker.update([face(200 + 15 * i, 300)], i * FRAME) for i in range(40)]
    assert {tracks[0].id for tracks in seen} == {seen[0][0].id}
    assert seen[-1][0].first_seen_ns == 0
    assert seen[-1][0].last_seen_ns == 39 * FRAME


def test_two_faces_that_come_close_do_not_share_a_track() -> None:
    tracker = Tracker()
    for i in range(20):
        left, right = tracker.update([face(200 + 4 * i, 300), face(500 - 4 * i, 300)], i * FRAME)
        assert left.id != right.id
        assert left.face.box[0] < right.face.box[0]


def test_a_step_without_overlap_is_followed_at_three_frames_a_second() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300, 120)], 0)
    (second,) = tracker.update([face(370, 310, 125)], 330_000_000)
    assert second.id == first.id


def test_a_face_elsewhere_or_of_another_size_is_another_track() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300, 120)], 0)
    (far,) = tracker.update([face(700, 300, 120)], FRAME)
    (near,) = tracker.update([face(310, 300, 400)], 2 * FRAME)
    assert len({first.id, far.id, near.id}) == 3


def test_a_blink_of_the_detector_does_not_end_a_track() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300)], 0)
    for i in range(1, MAX_MISSED_FRAMES + 1):
        assert tracker.update([], i * FRAME) == []
        assert tracker.gone == frozenset()
    (again,) = tracker.update([face(302, 300)], (MAX_MISSED_FRAMES + 1) * FRAME)
    assert again.id == first.id


def test_a_track_dies_after_few_frames_and_its_id_is_told_before_it_is_reused() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300)], 0)
    told = None
    for i in range(1, 12):
        tracker.update([], i * FRAME)
        told = told or (i if first.id in tracker.gone else None)
    assert told == MAX_MISSED_FRAMES + 2
    (other,) = tracker.update([face(300, 300)], 20 * FRAME)
    assert other.id == first.id, "ids are reused: a running number would count people"
    assert other.first_seen_ns == 20 * FRAME


def test_an_id_is_never_dead_and_new_in_the_same_update() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300)], 0)
    (other,) = tracker.update([face(300, 300)], 2 * MAX_MISSED_NS)
    assert tracker.gone == {first.id}
    assert other.id != first.id


def test_a_clock_that_goes_back_carries_nothing_over() -> None:
    tracker = Tracker()
    (first,) = tracker.update([face(300, 300)], 10 * FRAME)
    (second,) = tracker.update([face(300, 300)], 0)
    assert tracker.gone == {first.id}
    assert second.first_seen_ns == 0


def test_at_most_the_limit_is_followed_and_known_faces_stay() -> None:
    tracker = Tracker()
    crowd = [face(100 + 150 * i, 300, 100) for i in range(MAX_TRACKS + 5)]
    first = tracker.update(crowd, 0)
    assert len(first) == MAX_TRACKS
    again = tracker.update(list(reversed(crowd)), FRAME)
    assert {t.id for t in again} == {t.id for t in first}


def test_boxes_that_are_no_boxes_are_left_out() -> None:
    points = np.zeros((5, 2), np.float32)
    broken = [Face((np.nan, 0, 1, 1), points, 1), Face((5, 5, 5, 9), points, 1), Face((0, 0, np.inf, 1), points, 1)]
    assert Tracker().update(broken, 0) == []


moments = st.lists(
    st.tuples(st.integers(0, 2_000_000_000), st.lists(st.tuples(st.floats(0, 2000), st.floats(20, 600)), max_size=20)),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(moments)
def test_every_track_is_one_of_the_faces_and_ids_are_unique_and_small(moments) -> None:
    tracker, alive, now = Tracker(), set(), 0
    for step, places in moments:
        now += step
        faces = [face(x, 300, width) for x, width in places]
        tracks = tracker.update(faces, now)
        ids = [t.id for t in tracks]
        assert len(set(ids)) == len(ids) <= MAX_TRACKS
        assert all(0 <= i < 2 * MAX_TRACKS for i in ids)
        assert [t.face for t in tracks] == [f for f in faces if any(f is t.face for t in tracks)]
        assert not tracker.gone & set(ids)
        assert tracker.gone <= alive
        alive = (alive - tracker.gone) | set(ids)
        assert len(alive) <= MAX_TRACKS
