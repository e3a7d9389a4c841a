# SPDX-License-Identifier: Apache-2.0
"""A capture at each of its bounds, and one step beyond; and who is found to be enrolled already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from agent.camera.base import Frame
from agent.detect.face import Face
from agent.detect.pose import Pose, head_pose
from agent.detect.track import Track
from agent.embed.records import Crop
from agent.errors import CaptureRefusedError
from agent.gallery.references import References
from agent.gallery.template import MAX_CAPTURES, mean_reference
from agent.match.policy import Policy
from agent.protocol.subject import SubjectId
from agent.unit.capturing import (
    ADVICE,
    LUMA,
    PATIENCE_NS,
    SESSION_NS,
    EnrolmentSession,
    Progress,
    Quality,
    View,
    sharpness,
)
from agent.unit.spot_session import capture
from tests.simulators.gallery_life import MODEL, captures, unit_vector
from tests.unit.test_gallery_enrol import GOOD, SECOND, Studio, frame, picture
from tests.unit.test_match_policy import policy

ANN, BOB = SubjectId(b"a" * 16), SubjectId(b"b" * 16)


@pytest.fixture
def person() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return captures(rng, unit_vector(rng), 5)


def sized(px: float) -> Face:
    """A good face of another size, turned as the good one."""
    return Face((100.0, 100.0, 100.0 + px, 100.0 + px + 40), GOOD.landmarks, 0.9)


def refusal(session: EnrolmentSession, at_ns: int, *faces: Face) -> str | None:
    return session.offer(frame(at_ns), faces or [GOOD]).refusal


@pytest.mark.parametrize(("px", "told"), [(112, None), (111, "small")])
def test_a_face_is_as_large_as_a_crop_that_is_not_enlarged(person: list[np.ndarray], px: int, told: str | None) -> None:
    assert refusal(Studio(vectors=person).session(), 0, sized(px)) == told


def test_a_face_is_as_frontal_as_is_asked(person: list[np.ndarray]) -> None:
    turn = head_pose(GOOD.landmarks).turn
    for bound, told in ((turn, None), (turn - 1e-3, "turned")):
        studio = Studio(vectors=list(person))
        assert refusal(studio.session(quality=Quality(max_turn_degrees=bound)), 0) == told


def luma_of(crop: Crop) -> np.ndarray:
    return crop.astype(np.float32) @ LUMA


@pytest.mark.parametrize(
    ("name", "step", "told"),
    [("min_luma", 1e-3, "dark"), ("max_luma", -1e-3, "bright"), ("min_sharpness", 1e-6, "blurred")],
)
def test_light_and_sharpness_are_enough_at_their_bounds(
    person: list[np.ndarray], name: str, step: float, told: str
) -> None:
    luma = luma_of(picture())
    measured = sharpness(luma) if name == "min_sharpness" else float(luma.mean())
    for bound, expected in ((measured, None), (measured + step, told)):
        studio = Studio(vectors=list(person))
        assert refusal(studio.session(quality=msgspec.structs.replace(Quality(), **{name: bound})), 0) == expected


def test_captures_are_apart_by_seven_tenths_of_a_second_and_end_after_two_minutes(person: list[np.ndarray]) -> None:
    session = Studio(vectors=list(person)).session()
    assert refusal(session, SECOND) is None
    assert refusal(session, SECOND + 700_000_000 - 1) == "wait"
    assert refusal(session, SECOND + 700_000_000) != "wait"
    session = Studio(vectors=list(person)).session()
    assert refusal(session, SECOND) is None
    assert refusal(session, SECOND + SESSION_NS) is None, "from its first frame"
    assert session.offer(frame(SECOND + SESSION_NS + 1), [GOOD]) == Progress(0, 5, "timed_out")


def test_a_crop_of_one_grey_level_more_or_less_has_no_sharpness() -> None:
    """Its Laplacian is noise alone: two levels in turns have a variance of exactly 1."""
    turns = np.indices((8, 8)).sum(0) % 2 * 2.0
    assert float(turns.var()) == 1.0
    assert sharpness(turns.astype(np.float32)) == 0.0
    assert sharpness((turns * 2).astype(np.float32)) > 1.0


def test_sharpness_is_the_variance_of_what_differs_from_its_neighbours() -> None:
    luma = np.random.default_rng(4).normal(128, 20, (9, 12)).astype(np.float32)
    rows = [
        4 * luma[y, x] - luma[y - 1, x] - luma[y + 1, x] - luma[y, x - 1] - luma[y, x + 1]
        for y in range(1, 8)
        for x in range(1, 11)
    ]
    assert sharpness(luma) == pytest.approx(np.var(rows) / np.var(luma), rel=1e-4)
    flat = np.full((9, 12), 128, np.float32)
    assert sharpness(flat) == 0
    flat[4, 4] += np.float32(np.sqrt(108 * 108 / 107))  # of a variance of one
    assert sharpness(flat * np.float32(0.99)) == 0, "below it there is nothing to be sharp"


# -- another view -------------------------------------------------------------------------------------------------

FRONT = View(Pose(0.0, 0.0, 0.0), 200.0)


@pytest.mark.parametrize(
    ("view", "likeness", "alike"),
    [
        (FRONT, 0.98, True),
        (FRONT, 0.97, True),
        (FRONT, 0.9699, False),
        (View(Pose(2.99, 0.0, 0.0), 200.0), 0.98, True),
        (View(Pose(3.0, 0.0, 0.0), 200.0), 0.98, False),
        (View(Pose(-3.0, 0.0, 0.0), 200.0), 0.98, False),
        (View(Pose(0.0, 3.0, 0.0), 200.0), 0.98, False),
        (View(Pose(1.0, -3.0, 0.0), 200.0), 0.98, False),
        (View(Pose(2.0, 2.0, 0.0), 200.0), 0.98, True),
        (View(Pose(0.0, 0.0, 0.0), 209.9), 0.98, True),
        (View(Pose(0.0, 0.0, 0.0), 210.0), 0.98, False),
        (View(Pose(0.0, 0.0, 0.0), 200.0 / 1.051), 0.98, False),
        (View(Pose(0.0, 0.0, 0.0), 200.0 / 1.049), 0.98, True),
    ],
)
def test_another_view_is_turned_nearer_or_looks_different(view: View, likeness: float, alike: bool) -> None:
    session = Studio().session()
    assert session._alike(view, FRONT, likeness) is alike
    turned = View(Pose(view.pose.yaw + 5, view.pose.pitch, 0.0), view.size)
    assert session._alike(turned, View(Pose(5.0, 0.0, 0.0), 200.0), likeness) is alike, "by what differs"


def test_an_alike_view_will_do_after_a_while(person: list[np.ndarray]) -> None:
    near = person[0] + np.float32(0.12) * unit_vector(np.random.default_rng(9))
    near = (near / np.linalg.norm(near)).astype(np.float32)
    assert 0.97 <= float(near @ person[0]) <= 0.995
    for late_ns, told in ((PATIENCE_NS - 1, "alike"), (PATIENCE_NS, None)):
        session = Studio(vectors=[person[0], near]).session()
        assert refusal(session, SECOND) is None
        assert refusal(session, SECOND + late_ns) == told


# -- who is enrolled already --------------------------------------------------------------------------------------


class Asked:
    """A policy that keeps for what it was asked; ``value`` is the threshold."""

    def __init__(self, value: float) -> None:
        self.value, self.asked = value, list[tuple[int, int]]()
        made = policy()
        self.probe, self.same_face = msgspec.structs.replace(made.probe), made.same_face

    def threshold(self, size: int, probes: int) -> Any:
        self.asked.append((size, probes))
        return SimpleNamespace(value=self.value)


@pytest.mark.parametrize(("over", "subject", "known"), [(0.0, None, True), (1e-3, None, False), (0.0, ANN, False)])
def test_who_has_a_reference_here_is_refused_from_the_threshold_on(
    person: list[np.ndarray], over: float, subject: SubjectId | None, known: bool
) -> None:
    mean = mean_reference(person[:3])
    others = unit_vector(np.random.default_rng(11))
    references = References((ANN, BOB), np.stack([mean, others]), MODEL)
    score = float(np.einsum("ij,j->i", references.matrix, mean)[0])
    asked = Asked(score + over)
    studio = Studio(vectors=list(person[:3]))
    session = studio.session(
        references, policy=cast("Policy", asked), subject=subject, quality=Quality(captures=3, other_likeness=1.0)
    )
    for number in range(3):
        assert session.offer(frame(2 * number * SECOND), [GOOD]).captured == number + 1
    if known:
        with pytest.raises(CaptureRefusedError) as refused:
            session.finish()
        assert refused.value.reason == "already_enrolled"
        assert str(refused.value) == "this person is enrolled already: erase or renew that reference instead"
        assert not any(one.vector.any() for one in studio.given)
    else:
        assert len(session.finish()) == 3
    assert asked.asked == ([] if subject else [(2, 3)])


def test_a_capture_is_of_the_same_face_from_the_policys_bound_on(person: list[np.ndarray]) -> None:
    likeness = float(person[1] @ person[0])
    for over, told in ((0.0, None), (1e-6, "another_face")):
        asked = Asked(1.0)
        asked.same_face = likeness + over
        quality = Quality(other_likeness=1.0)
        session = Studio(vectors=list(person)).session(policy=cast("Policy", asked), quality=quality)
        assert refusal(session, 0) is None
        assert refusal(session, 2 * SECOND) == told


def test_what_is_advised_is_one_sentence_for_each_refusal() -> None:
    assert Progress(1, 5, None).advice == ""
    assert {Progress(1, 5, one).advice for one in ADVICE} == set(ADVICE.values())
    assert [Progress(n, 5, None).complete for n in (4, 5, 6)] == [False, True, True]
    for wrong in (2, MAX_CAPTURES + 1):
        with pytest.raises(ValueError, match=r"^captures must be 3 to 5$"):
            Quality(captures=wrong)


# -- at the command line ------------------------------------------------------------------------------------------


class Shown:
    """A camera of so many frames, a second apart, and a session that says of each what it is told to say."""

    def __init__(self, *progress: Progress, apart_ns: int = SECOND) -> None:
        self.progress, self.apart_ns = list(progress), apart_ns
        self.pressed: list[int] = []
        self.ended: list[str] = []
        self.told: list[str] = []
        self.tracks: list[int] = []

    def frames(self) -> Iterator[Frame]:
        for number in range(len(self.progress)):
            yield frame(SECOND + number * self.apart_ns)

    def detect(self, _: Frame) -> list[Face]:
        return [GOOD]

    def press(self, now_ns: int) -> None:
        self.pressed.append(now_ns)

    def offer(self, _: Frame, tracks: Sequence[Track]) -> Progress:
        self.tracks.append(len(tracks))
        return self.progress.pop(0)

    @property
    def session(self) -> Any:
        return SimpleNamespace(finish=self.finish, cancel=lambda: self.ended.append("cancelled"))

    def finish(self) -> list[str]:
        self.ended.append("finished")
        return ["captures"]

    def run(self, presses: Sequence[bool] = ()) -> object:
        left = iter(presses)
        camera, shown = cast("Any", self), cast("Any", self)
        return capture(camera, shown, shown, pressed=lambda: next(left, False), tell=self.told.append)


def test_at_the_units_command_line_each_new_advice_is_told_once_and_the_end_is_known() -> None:
    shown = Shown(Progress(0, 5, "none"), Progress(0, 5, "none"), Progress(1, 5, None), Progress(5, 5, None))
    shown.progress.append(Progress(5, 5, None))
    assert shown.run([False, True]) == ["captures"]
    assert shown.told == ["0 of 5: step in front of the camera", "1 of 5", "5 of 5"]
    assert shown.pressed == [2 * SECOND]
    assert (shown.ended, len(shown.progress)) == (["finished"], 1), "no frame more than is needed"
    assert shown.tracks[0] == 1


@pytest.mark.parametrize(("captured", "enough"), [(2, False), (3, True)])
@pytest.mark.parametrize("how", ["the camera ends", "the session says so", "the time is over"])
def test_when_the_time_is_over_what_makes_a_reference_will_do(captured: int, enough: bool, how: str) -> None:
    last = Progress(captured, 5, "timed_out" if how == "the session says so" else "alike")
    shown = Shown(Progress(captured, 5, "alike"), last, apart_ns=SESSION_NS + (how == "the time is over"))
    if how != "the camera ends":
        shown.progress.append(Progress(5, 5, None))
    if how == "the session says so":
        shown.apart_ns = SECOND
    if enough:
        assert shown.run() == ["captures"]
        assert shown.ended == ["finished"]
    else:
        with pytest.raises(CaptureRefusedError) as refused:
            shown.run()
        said = f"{captured} of 5 captures were taken, nothing was stored: start again, follow the advice"
        assert str(refused.value) == said
        assert shown.ended == ["cancelled"]
    assert len(shown.progress) == (how != "the camera ends")


def test_a_camera_that_gives_no_frame_stores_nothing() -> None:
    shown = Shown()
    with pytest.raises(CaptureRefusedError) as refused:
        shown.run()
    assert str(refused.value) == "no captures were taken, nothing was stored: start again, follow the advice"
    assert shown.ended == ["cancelled"]
