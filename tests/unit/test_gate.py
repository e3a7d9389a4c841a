# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.detect.face import Face
from agent.detect.gate import (
    MAX_TURN_DEGREES,
    MAX_WINDOW_NS,
    MIN_DWELL_NS,
    MIN_FACE_PX,
    MIN_ZONE_AREA,
    ButtonGate,
    FaceLimits,
    ZoneGate,
)
from agent.detect.pose import TURNED_AWAY, head_pose
from agent.detect.track import MAX_MISSED_NS, Track
from agent.errors import ConfigError
from tests.simulators.heads import face, landmarks

WIDTH, HEIGHT = 1280, 720
HALL = ((0.25, 0.2), (0.75, 0.2), (0.75, 0.9), (0.25, 0.9))
FRAME = 50_000_000  # ns
DWELL = 500_000_000
SIZE = {"frame_width": WIDTH, "frame_height": HEIGHT}


def zone_gate(**changes: object) -> ZoneGate:
    return ZoneGate(**{"zone": "door", "polygon": HALL, "dwell_ns": DWELL, **changes})


def track(shown: Face, *, id_: int = 0, since: int = 0, now: int = 0) -> Track:
    return Track(id_, shown, since, now)


def admitted_after(gate: ZoneGate, shown: Face, nanoseconds: int, *, width: int = WIDTH, height: int = HEIGHT) -> bool:
    """Whether a face that stands still is admitted once it has been seen for so long."""
    for now in range(0, nanoseconds + 1, FRAME):
        out = gate.admit([track(shown, now=now)], frame_width=width, frame_height=height, timestamp_ns=now)
    return bool(out)


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-45, 45),
    st.floats(-40, 40),
    st.floats(-45, 45),
    st.floats(20, 300),
    st.tuples(st.floats(0, 3000), st.floats(0, 2000)),
)
def test_pose_is_estimated_to_a_few_degrees_on_each_axis(yaw, pitch, roll, size, at) -> None:
    assert abs(head_pose(landmarks(yaw=yaw, roll=roll, size=size, at=at)).yaw - yaw) < 3
    assert abs(head_pose(landmarks(pitch=pitch, roll=roll, size=size, at=at)).pitch - pitch) < 3
    assert abs(head_pose(landmarks(roll=roll, size=size, at=at)).roll - roll) < 1
    both = head_pose(landmarks(yaw=yaw, pitch=pitch, size=size, at=at))
    assert abs(both.yaw - yaw) < 12
    assert abs(both.pitch - pitch) < 12


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        np.full((5, 2), np.nan),
        np.zeros((4, 2)),
        landmarks()[[1, 0, 2, 4, 3]],  # mirrored
        landmarks(roll=0)[[3, 4, 2, 0, 1]],  # upside down
    ],
)
def test_landmarks_that_make_no_face_are_turned_away(points) -> None:
    assert head_pose(points).turn > 60 or head_pose(points) == TURNED_AWAY


def test_a_face_that_stays_and_looks_is_admitted() -> None:
    gate = zone_gate()
    assert not admitted_after(gate, face(640, 360), DWELL - FRAME)
    assert admitted_after(zone_gate(), face(640, 360), DWELL)
    assert gate.zone == "door"


@settings(max_examples=80, deadline=None)
@given(st.floats(-200, 1500), st.floats(-200, 900))
def test_a_face_outside_the_zone_is_never_admitted(x, y) -> None:
    inside = 0.25 < x / WIDTH < 0.75 and 0.2 < y / HEIGHT < 0.9
    at_edge = min(abs(x / WIDTH - 0.25), abs(x / WIDTH - 0.75), abs(y / HEIGHT - 0.2), abs(y / HEIGHT - 0.9)) < 1e-9
    assert at_edge or admitted_after(zone_gate(), face(x, y), 4 * DWELL) == inside


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 300), st.integers(32, 200))
def test_a_small_face_is_never_admitted(width, least) -> None:
    gate = zone_gate(limits=FaceLimits(min_face_px=least))
    shown = face(640, 360, width)
    assert admitted_after(gate, shown, 4 * DWELL) == (min(shown.width, shown.height) >= least)


@settings(max_examples=80, deadline=None)
@given(st.floats(-80, 80), st.floats(-60, 60), st.floats(-80, 80))
def test_a_turned_face_is_never_admitted(yaw, pitch, roll) -> None:
    if max(map(abs, (yaw, pitch, roll))) > 42:
        assert not admitted_after(zone_gate(), face(640, 360, yaw=yaw, pitch=pitch, roll=roll), 4 * DWELL)
    if max(map(abs, (yaw, pitch, roll))) < 10:
        assert admitted_after(zone_gate(), face(640, 360, yaw=yaw, pitch=pitch, roll=roll), 4 * DWELL)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["looks", "turned", "outside", "small", "hidden"]), min_size=1, max_size=60))
def test_only_an_unbroken_stay_is_an_act(history) -> None:
    """Against a model: admitted if and only if the conditions held at every sighting since a dwell time ago."""
    shown = {
        "looks": face(640, 360),
        "turned": face(640, 360, yaw=50),
        "outside": face(100, 360),
        "small": face(640, 360, 20),
    }
    gate, since = zone_gate(), None
    last = -MAX_MISSED_NS - 1
    for number, what in enumerate(history):
        now = number * FRAME
        if what == "hidden":
            assert gate.admit([], timestamp_ns=now, **SIZE) == []
            continue
        if now - last > MAX_MISSED_NS:
            since = None
        since = None if what != "looks" else now if since is None else since
        last = now if what == "looks" else last
        out = gate.admit([track(shown[what], now=now)], timestamp_ns=now, **SIZE)
        assert bool(out) == (since is not None and now - since >= DWELL)


def test_a_reused_track_id_does_not_inherit_the_stay() -> None:
    gate = zone_gate()
    assert admitted_after(gate, face(640, 360), DWELL)
    successor = track(face(640, 360), since=DWELL + FRAME, now=DWELL + FRAME)
    assert gate.admit([successor], timestamp_ns=DWELL + FRAME, **SIZE) == []


def test_a_clock_that_goes_back_admits_nobody() -> None:
    gate = zone_gate()
    assert admitted_after(gate, face(640, 360), DWELL)
    assert gate.admit([track(face(640, 360))], timestamp_ns=0, **SIZE) == []


def test_the_gate_remembers_nobody_who_left() -> None:
    gate = zone_gate()
    for number in range(200):
        now = number * 2 * MAX_MISSED_NS
        gate.admit([track(face(640, 360), id_=number, since=now, now=now)], timestamp_ns=now, **SIZE)
    assert len(gate._since) == 1


def test_the_aiming_tool_is_told_why_and_nothing_is_kept() -> None:
    gate = zone_gate()
    before = dict(gate._since)
    for shown, reason in (
        (face(100, 360), "outside_zone"),
        (face(640, 360, 20), "too_small"),
        (face(640, 360, yaw=60), "turned"),
        (face(640, 360), "dwell"),
    ):
        assert gate.refusal(track(shown), timestamp_ns=0, **SIZE) == reason
    assert gate._since == before
    assert admitted_after(gate, face(640, 360), DWELL)
    assert gate.refusal(track(face(640, 360)), timestamp_ns=DWELL, **SIZE) is None


@pytest.mark.parametrize(
    "polygon",
    [
        (),
        ((0, 0), (1, 1)),
        ((0, 0), (1, 1), (0.5, 0.5)),  # no area
        ((0, 0), (1.2, 0), (1, 1)),
        ((0, 0), (float("nan"), 0), (1, 1)),
        tuple((i / 20, (i * i) / 400) for i in range(17)),
    ],
)
def test_a_zone_that_is_none_is_refused(polygon) -> None:
    with pytest.raises(ConfigError):
        zone_gate(polygon=polygon)


def test_there_is_no_gate_that_is_always_open() -> None:
    for make in (
        lambda: zone_gate(dwell_ns=MIN_DWELL_NS - 1),
        lambda: FaceLimits(min_face_px=0),
        lambda: FaceLimits(max_turn_degrees=180),
        lambda: FaceLimits(max_turn_degrees=0),
        lambda: FaceLimits(max_turn_degrees=float("nan")),
        lambda: ButtonGate(zone="door", window_ns=MAX_WINDOW_NS + 1),
        lambda: ButtonGate(zone="door", window_ns=0),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_button_that_nobody_pressed_admits_nobody() -> None:
    gate = ButtonGate(zone="door")
    assert gate.admit([track(face(640, 360))], timestamp_ns=10**12, **SIZE) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**11), st.integers(1, MAX_WINDOW_NS), st.integers(0, 2 * 10**11))
def test_a_button_admits_within_its_window_alone(pressed, window, now) -> None:
    gate = ButtonGate(zone="door", window_ns=window)
    gate.open_window(pressed)
    out = gate.admit([track(face(640, 360), now=now)], timestamp_ns=now, **SIZE)
    assert bool(out) == (pressed <= now < pressed + window)


def test_a_button_admits_the_nearest_face_alone() -> None:
    gate = ButtonGate(zone="door")
    gate.open_window(0)
    near, far = track(face(500, 360, 200), id_=1), track(face(900, 360, 120), id_=2)
    assert gate.admit([far, near], timestamp_ns=1, **SIZE) == [near]
    turned_away = track(face(500, 360, 200, yaw=70), id_=1)
    assert gate.admit([far, turned_away], timestamp_ns=1, **SIZE) == [], "a bystander is not admitted instead"
    assert gate.refusal(far, [far, near], timestamp_ns=1, **SIZE) == "not_nearest"


def test_a_button_shuts_early_and_a_second_press_starts_anew() -> None:
    gate = ButtonGate(zone="door", window_ns=10)
    gate.open_window(0)
    gate.open_window(5)
    assert gate.admit([track(face(640, 360))], timestamp_ns=14, **SIZE)
    assert not gate.admit([track(face(640, 360))], timestamp_ns=15, **SIZE)
    gate.open_window(20)
    gate.shut()
    assert not gate.admit([track(face(640, 360))], timestamp_ns=21, **SIZE)


@pytest.mark.parametrize(
    ("wide", "high", "fits"), [(120, 120, True), (120, 80, True), (80, 120, True), (120, 79, False), (79, 120, False)]
)
def test_the_smaller_side_of_a_face_counts(wide: float, high: float, fits: bool) -> None:
    shown = replace(face(640, 360, 100), box=(640 - wide / 2, 360 - high / 2, 640 + wide / 2, 360 + high / 2))
    limits = FaceLimits(min_face_px=80)
    assert (limits.refusal(track(shown)) is None) == fits
    assert admitted_after(zone_gate(limits=limits), shown, 2 * DWELL) == fits


def test_of_two_faces_the_larger_in_area_is_the_nearest_and_not_the_wider() -> None:
    gate = ButtonGate(zone="door", window_ns=10 * DWELL, limits=FaceLimits(min_face_px=40))
    gate.open_window(0)
    wide = replace(face(300, 360, 100), box=(230, 310, 370, 410))  # 140 x 100
    tall = replace(face(900, 360, 100), box=(840, 240, 960, 480))  # 120 x 240
    shown = [track(wide, id_=1), track(tall, id_=2)]
    assert [one.id for one in gate.admit(shown, **SIZE, timestamp_ns=FRAME)] == [2]


@pytest.mark.parametrize("broken", [{"x": 100}, {"width": 60}, {"yaw": 40}])
def test_a_frame_in_which_a_condition_does_not_hold_begins_the_dwell_anew(broken: dict[str, float]) -> None:
    gate = zone_gate()
    good = face(640, 360)
    bad = face(broken.get("x", 640), 360, broken.get("width", 120), yaw=broken.get("yaw", 0))
    admitted = []
    for now in range(0, 3 * DWELL, FRAME):
        shown = bad if now == DWELL - FRAME else good
        admitted.append(bool(gate.admit([track(shown, now=now)], **SIZE, timestamp_ns=now)))
    again = DWELL + DWELL  # in frames: it is good again from DWELL on
    assert not any(admitted[: again // FRAME])
    assert all(admitted[again // FRAME :])


def test_a_clock_that_goes_back_begins_the_dwell_anew() -> None:
    gate = zone_gate()
    assert admitted_after(gate, face(640, 360), 2 * DWELL)
    assert not gate.admit([track(face(640, 360))], **SIZE, timestamp_ns=DWELL)
    assert not gate.admit([track(face(640, 360))], **SIZE, timestamp_ns=2 * DWELL - FRAME)
    assert gate.admit([track(face(640, 360))], **SIZE, timestamp_ns=2 * DWELL)


FRACTION = st.floats(0, 1)
POINT = st.tuples(FRACTION, FRACTION)


@settings(max_examples=100, deadline=None)
@given(POINT, POINT, POINT, POINT)
def test_a_zone_of_any_slant_holds_what_lies_within_its_edges(a, b, c, point) -> None:
    def side(one, other, at) -> float:
        return (other[0] - one[0]) * (at[1] - one[1]) - (other[1] - one[1]) * (at[0] - one[0])

    sides = [side(a, b, point), side(b, c, point), side(c, a, point)]
    assume(abs(side(a, b, c)) / 2 >= 2 * MIN_ZONE_AREA)
    assume(min(map(abs, sides)) > 1e-6)
    within = all(one > 0 for one in sides) or all(one < 0 for one in sides)
    for corners in ((a, b, c), (c, b, a), (b, c, a)):
        shown = track(face(point[0] * WIDTH, point[1] * HEIGHT))
        assert (zone_gate(polygon=corners).unfit(shown, [shown], **SIZE) is None) == within


def test_the_bounds_of_what_may_be_configured_may_be_configured() -> None:
    limits = FaceLimits(min_face_px=MIN_FACE_PX, max_turn_degrees=MAX_TURN_DEGREES)
    assert admitted_after(zone_gate(dwell_ns=MIN_DWELL_NS, limits=limits), face(640, 360), MIN_DWELL_NS)
    assert ButtonGate(zone="door", window_ns=MAX_WINDOW_NS).zone == "door"
    assert ButtonGate(zone="door", window_ns=1).zone == "door"
    assert FaceLimits(max_turn_degrees=0.5).max_turn_degrees == 0.5
    assert zone_gate(polygon=((0, 0), (1, 0), (1, 2 * MIN_ZONE_AREA)))
    whole = ((0, 0), (1, 0), (1, 1), (0, 1))
    assert admitted_after(zone_gate(polygon=whole), face(640, 360), DWELL)
    assert admitted_after(
        zone_gate(polygon=[*whole[:3], *[(0.5, 1 - n / 20) for n in range(13)]]), face(1000, 360), DWELL
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: zone_gate(dwell_ns=1), "the dwell time of zone door is too short: set 200 ms or more"),
        (lambda: ButtonGate(zone="door", window_ns=0), "the window of button door must be at most 60 seconds"),
        (lambda: FaceLimits(min_face_px=31), "min_face_px is 31: set 32 pixels or more"),
        (lambda: FaceLimits(max_turn_degrees=61), "max_turn_degrees is 61: set at most 60 degrees"),
        (lambda: zone_gate(polygon=[(0, 0)] * 17), "a zone has 3 to 16 corners, this one has 17"),
        (
            lambda: zone_gate(polygon=((-0.1, 0), (1, 0), (1, 1))),
            "a corner of the zone lies outside the picture: give fractions from 0 to 1",
        ),
        (
            lambda: zone_gate(polygon=((0, 0), (1, 0), (0.5, 0.0009))),
            "the zone has no area: give its corners in order around its edge",
        ),
    ],
)
def test_what_may_not_be_configured_is_told_with_what_may(make, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("x", "y", "in_picture"),
    [(0, 0, True), (0.5, 0.5, True), (WIDTH, HEIGHT, True), (-1, 360, False), (WIDTH + 1, 360, False),
     (640, -1, False), (640, HEIGHT + 1, False)],
)  # fmt: skip
def test_a_button_admits_a_face_whose_centre_is_in_the_picture(x: float, y: float, in_picture: bool) -> None:
    gate = ButtonGate(zone="door")
    gate.open_window(0)
    shown = track(face(x, y, 120))
    wanted = None if in_picture else "outside_zone"
    assert gate.refusal(shown, [shown], **SIZE, timestamp_ns=0) == gate.unfit(shown, [shown], **SIZE) == wanted


def test_only_somebody_who_has_stayed_and_is_wanted_needs_a_look_while_they_stand() -> None:
    gate = zone_gate()
    for now in range(DWELL, 2 * DWELL + 1, FRAME):
        gate.admit([track(face(640, 360), id_=3, now=now)], timestamp_ns=now, **SIZE)
    assert not gate.needs(2 * DWELL - 1, lambda _: True)
    assert gate.needs(2 * DWELL, lambda id_: id_ == 3)
    assert not gate.needs(2 * DWELL, lambda id_: id_ != 3)
    assert not gate.waits(2 * DWELL)


def test_a_window_may_be_of_another_length_than_the_buttons_and_never_beyond_the_bound() -> None:
    gate = ButtonGate(zone="door", window_ns=10)
    gate.open_window(0, 20)
    assert (gate.waits(19), gate.waits(20)) == (True, False)
    gate.open_window(0, 2 * MAX_WINDOW_NS)
    assert (gate.waits(MAX_WINDOW_NS - 1), gate.waits(MAX_WINDOW_NS)) == (True, False)
    gate.open_window(0)
    assert (gate.waits(9), gate.needs(9, lambda _: False), gate.waits(10)) == (True, True, False)
    ordinary = ButtonGate(zone="door")
    ordinary.open_window(0)
    assert (ordinary.waits(10 * 10**9 - 1), ordinary.waits(10 * 10**9)) == (True, False)


def test_the_aiming_tool_is_told_that_nobody_pressed_the_button() -> None:
    shown = track(face(640, 360))
    assert ButtonGate(zone="door").refusal(shown, [shown], **SIZE, timestamp_ns=0) == "shut"


@pytest.mark.parametrize(("hidden", "kept"), [(0, True), (MAX_MISSED_NS, True), (MAX_MISSED_NS + 1, False)])
def test_a_face_that_is_hidden_as_long_as_a_track_lives_keeps_its_dwell(hidden: int, kept: bool) -> None:
    gate = zone_gate(dwell_ns=MIN_DWELL_NS)
    assert admitted_after(gate, face(640, 360), MIN_DWELL_NS)
    again = MIN_DWELL_NS + hidden
    assert bool(gate.admit([track(face(640, 360), now=again)], timestamp_ns=again, **SIZE)) == kept


def test_who_does_not_act_keeps_nobody_else_from_being_admitted() -> None:
    gate, unfit = zone_gate(), {0: face(100, 360), 1: face(640, 360, 20), 2: face(640, 360, yaw=60)}
    for now in range(0, DWELL + 1, FRAME):
        shown = [track(unfit[id_] if id_ in unfit else face(640, 360), id_=id_, now=now) for id_ in range(5)]
        admitted = gate.admit(shown, timestamp_ns=now, **SIZE)
    assert [one.id for one in admitted] == [3, 4]
