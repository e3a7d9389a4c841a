# SPDX-License-Identifier: Apache-2.0
"""The loop keeps its promises whatever the models say: stand-ins answer for the models, everything else is real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent import pipeline
from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.detect.cadence import Cadence
from agent.detect.change import ChangeTest
from agent.detect.face import Face
from agent.detect.gate import FaceLimits, ZoneGate
from agent.detect.second_try import SecondTry
from agent.detect.track import Tracker
from agent.detect.view import WHOLE
from agent.door.liveness import UncheckedLiveness
from agent.embed.records import Crop, Embedding
from agent.gallery.references import References
from agent.match.decide import Decider
from agent.match.presence import Presence, PresenceChange
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.timing import StageTimes
from agent.unit.looking import ALWAYS_NS
from tests.unit.test_match_policy import policy

MODEL = "sha256:" + "0" * 64
WIDTH, HEIGHT = 640, 480
FRAME_NS = 100_000_000
POLICY = policy(model=MODEL)
ALICE = SubjectId(b"a" * 16)
ALICE_VECTOR = np.eye(128, dtype=np.float32)[0]


def face(x: float, y: float, size: float = 120, yaw: float = 0.0) -> Face:
    """A face centred at x, y; ``yaw`` moves the nose sideways as a turned head does."""
    marks = np.array([[-0.2, -0.15], [0.2, -0.15], [yaw, 0.05], [-0.15, 0.25], [0.15, 0.25]], np.float32) * size
    return Face((x - size / 2, y - size / 2, x + size / 2, y + size / 2), marks + np.float32([x, y]), 0.9)


class ScriptedCamera:
    """Frames whose faces ``ScriptedDetector`` knows; remembers each frame to see whether it was released."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.made: list[Frame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def info(self) -> CameraInfo:
        return CameraInfo("scripted", WIDTH, HEIGHT, 10.0, live=False)

    def frames(self) -> Iterator[Frame]:
        for number in range(self.count):
            picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            self.made.append(Frame(number, number * FRAME_NS, np.zeros((240, 320, 3), np.uint8), RgbPicture(picture)))
            yield self.made[-1]


class ScriptedDetector:
    def __init__(self, faces: list[list[Face]]) -> None:
        self.faces = faces
        self.known: list[list[Face]] = []
        self.farther: dict[int, list[Face]] = {}
        self.again_at: list[int] = []

    def detect(self, frame: Frame, *, exact: bool, known: Sequence[Face]) -> list[Face]:
        assert not exact
        self.known.append(list(known))
        return self.faces[frame.number]

    def again(self, frame: Frame) -> list[Face]:
        self.again_at.append(frame.number)
        return self.farther.get(frame.number, [])

    def locate(self, frame: Frame, face: Face) -> Face:
        return face


class CountingEmbedder:
    """Answers with one vector and keeps the very arrays it saw and made."""

    def __init__(self, vector: np.ndarray) -> None:
        self.vector = vector
        self.crops: list[Crop] = []
        self.embeddings: list[Embedding] = []

    def embed(self, crop: Crop) -> Embedding:
        self.crops.append(crop)
        self.embeddings.append(Embedding(self.vector.copy(), MODEL))
        return self.embeddings[-1]


def make_stages(
    faces: list[list[Face]],
    recorded: list[Match | PresenceChange],
    *,
    count: int,
    vector: np.ndarray = ALICE_VECTOR,
    enrolled: bool = True,
) -> pipeline.Stages:
    matrix = ALICE_VECTOR[None] if enrolled else np.zeros((0, 128), np.float32)
    door = [(0.3, 0.1), (0.7, 0.1), (0.7, 0.9), (0.3, 0.9)]
    return pipeline.Stages(
        camera=ScriptedCamera(count),
        change=ChangeTest(WHOLE, min_face_px=80, hold_ns=ALWAYS_NS),  # its pictures do not show what is detected
        cadence=Cadence(),
        detector=ScriptedDetector(faces),  # type: ignore[arg-type]
        second_try=SecondTry(),
        tracker=Tracker(),
        gate=ZoneGate(zone="door", polygon=door, limits=FaceLimits(80, 25.0)),
        embedder=CountingEmbedder(vector),  # type: ignore[arg-type]
        references=lambda: References((ALICE,) if enrolled else (), matrix, MODEL),
        decider=Decider(POLICY),
        liveness=UncheckedLiveness(),
        presence=Presence(),
        record=recorded.append,
        enrol=lambda frame, tracks: False,
        enrolling=lambda: False,
        read=lambda frame: None,
        acting=lambda admitted: None,
        times=StageTimes(pipeline.STAGES),
    )


def play(faces: list[list[Face]], **changes: Any) -> Any:
    recorded: list[Match | PresenceChange] = []
    stages = make_stages(faces, recorded, count=len(faces), **changes)
    pipeline.run(stages, keep_going=lambda: True)
    return stages.camera, stages.embedder, recorded


def test_enrolled_person_who_acts_is_matched_once() -> None:
    _, _, recorded = play([[face(320, 240)]] * 30)
    assert [type(one).__name__ for one in recorded] == ["Match", "PresenceChange"]
    assert recorded[0].subject == ALICE
    assert recorded[0].zone == "door"


def test_who_is_found_only_farther_off_is_matched_too_and_tried_five_times_a_second_at_most() -> None:
    recorded: list[Match | PresenceChange] = []
    stages = make_stages([[]] * 30, recorded, count=30)
    script: Any = stages.detector
    script.farther = {number: [face(320, 240)] for number in range(30)}
    pipeline.run(stages, keep_going=lambda: True)
    assert [type(one).__name__ for one in recorded] == ["Match", "PresenceChange"]
    assert script.again_at == list(range(0, 30, 2)), "ten frames a second"


def test_a_frame_in_which_somebody_is_found_or_nothing_stirs_is_not_looked_at_again() -> None:
    shown = [[face(320, 240)]] * 20
    stages = make_stages(shown, [], count=20)
    pipeline.run(stages, keep_going=lambda: True)
    assert stages.detector.again_at == []  # type: ignore[attr-defined]
    quiet = ChangeTest(WHOLE, min_face_px=80)
    empty = replace(make_stages([[]] * 60, [], count=60), change=quiet)
    pipeline.run(empty, keep_going=lambda: True)
    assert quiet.looked > 6, "the first frames and once a second"
    assert max(empty.detector.again_at) <= 6, "until half a second after the first frame"  # type: ignore[attr-defined]


@pytest.mark.parametrize("vector", [ALICE_VECTOR, -ALICE_VECTOR])
def test_only_whom_nothing_is_to_be_decided_about_is_looked_at_once(vector: np.ndarray) -> None:
    shown, recorded = [face(320, 240)], list[Match | PresenceChange]()
    stages = make_stages([shown] * 16, recorded, count=16, vector=vector)
    pipeline.run(stages, keep_going=lambda: True)
    known = stages.detector.known  # type: ignore[attr-defined]
    decided = next(number for number, faces in enumerate(known) if faces)
    assert decided > 6, "0.6 s make an act"
    assert known[decided:] == [shown] * (len(known) - decided)
    assert len(stages.embedder.crops) == 2 * POLICY.probe.first, "three crops and their mirror images were enough"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("people", "matched"), [(1, True), (400, False)])
def test_the_larger_the_gallery_the_surer_a_match_has_to_be(people: int, matched: bool) -> None:
    low, high = (POLICY.threshold(size, 3).value for size in (1, 400))
    vector = np.zeros(128, np.float32)
    vector[0] = (low + high) / 2
    vector[127] = np.sqrt(1 - vector[0] ** 2)
    others = np.random.default_rng(1).normal(size=(people - 1, 128)).astype(np.float32)
    others[:, [0, 127]] = 0
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    subjects = (ALICE, *(SubjectId(number.to_bytes(16, "big")) for number in range(people - 1)))
    recorded: list[Match | PresenceChange] = []
    stages = make_stages([[face(320, 240)]] * 60, recorded, count=60, vector=vector)
    references = References(subjects, np.vstack([ALICE_VECTOR[None], others]), MODEL)
    pipeline.run(replace(stages, references=lambda: references), keep_going=lambda: True)
    assert any(isinstance(one, Match) for one in recorded) == matched


@pytest.mark.parametrize(
    "passer_by",
    [face(60, 240), face(320, 240, size=60), face(320, 240, yaw=0.3)],
    ids=["outside the zone", "far away", "looking elsewhere"],
)
def test_face_that_did_not_act_is_never_embedded(passer_by: Face) -> None:
    _, embedder, recorded = play([[passer_by]] * 60)
    assert embedder.crops == []
    assert recorded == []


def test_passer_by_who_does_not_stay_is_never_embedded() -> None:
    walking = [[face(60 + 40 * n, 240)] for n in range(14)]
    _, embedder, _ = play(walking)
    assert embedder.crops == []


def test_empty_gallery_embeds_nobody() -> None:
    _, embedder, recorded = play([[face(320, 240)]] * 30, enrolled=False)
    assert embedder.crops == []
    assert recorded == []


def overwritten(embedder: CountingEmbedder) -> bool:
    return not any(made.any() for made in (*embedder.crops, *(one.vector for one in embedder.embeddings)))


NOBODYS_VECTOR = np.eye(128, dtype=np.float32)[1]


def test_stranger_who_acts_leaves_nothing_behind_but_the_sum_of_a_living_track() -> None:
    camera, embedder, recorded = play([[face(320, 240)]] * 30, vector=NOBODYS_VECTOR)
    assert embedder.crops, "the stranger was compared"
    assert recorded == []
    assert overwritten(embedder)
    for frame in camera.made:
        with pytest.raises(ValueError, match="released"):
            _ = frame.main


class Watched:
    """Plays frames one by one, and holds on to the sums that the decider keeps."""

    def __init__(self, count: int, vector: np.ndarray = NOBODYS_VECTOR) -> None:
        self.faces = [[face(320, 240)] for _ in range(count)]
        self.stages = make_stages(self.faces, [], count=count, vector=vector)
        self.references = self.stages.references()
        self.stages = replace(self.stages, references=lambda: self.references)
        self._frames = self.stages.camera.frames()
        self.sums: list[np.ndarray] = []

    def frames(self, count: int) -> None:
        for _ in range(count):
            with next(self._frames) as frame:
                pipeline.process(self.stages, frame)
            self.sums += [probe.total for probe in self.stages.decider._probes._held.values() if probe.crops]

    def until_held(self) -> None:
        for _ in range(20):
            self.frames(1)
            if len(self.stages.decider._probes):
                return
        raise AssertionError("no probe came to be")

    def gone(self) -> bool:
        return len(self.stages.decider._probes) == 0 and bool(self.sums) and not any(one.any() for one in self.sums)


def test_the_probe_of_somebody_who_leaves_is_overwritten_when_the_track_dies() -> None:
    watched = Watched(60)
    watched.until_held()
    for number in range(20, 60):
        watched.faces[number] = []
    for number in range(20):
        watched.faces[number] = watched.faces[number] if number < len(watched.stages.camera.made) else []
    watched.frames(10)
    assert watched.gone()


def test_the_probe_is_overwritten_when_recognition_pauses_or_an_enrolment_begins() -> None:
    watched = Watched(60)
    watched.until_held()
    watched.references = References((), np.zeros((0, 128), np.float32), MODEL)  # what the service gives in both cases
    watched.frames(1)
    assert watched.gone()


def test_the_probe_is_overwritten_when_somebody_is_erased() -> None:
    watched = Watched(60)
    watched.until_held()
    watched.stages.decider.forget_subject(ALICE)
    assert watched.gone()


def test_the_probe_of_somebody_who_matched_nobody_is_overwritten_after_the_last_comparison() -> None:
    watched = Watched(60)
    watched.until_held()
    watched.frames(6)
    assert watched.gone()


def test_an_embedder_runs_twice_for_each_of_few_crops_of_a_visit() -> None:
    _, embedder, recorded = play([[face(320, 240)]] * 60)
    assert len(recorded) == 2
    seconds_after_the_match = 4
    assert len(embedder.embeddings) <= 2 * (POLICY.probe.first + seconds_after_the_match + 1)
    _, embedder, _ = play([[face(320, 240)]] * 60, vector=NOBODYS_VECTOR)
    assert len(embedder.embeddings) <= 2 * 3 * POLICY.probe.most, "three attempts in six seconds"


def test_frame_is_released_when_a_stage_fails() -> None:
    stages = make_stages([], [], count=1)
    with pytest.raises(IndexError):
        pipeline.run(stages, keep_going=lambda: True)
    with pytest.raises(ValueError, match="released"):
        _ = stages.camera.made[0].lores  # type: ignore[attr-defined]


def test_pipeline_ends_when_told() -> None:
    stages = make_stages([[]] * 50, [], count=50)
    asked = iter([True, True, False])
    pipeline.run(stages, keep_going=lambda: next(asked))
    assert len(stages.camera.made) == 3  # type: ignore[attr-defined]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-50, 700), st.floats(-50, 530), st.floats(5, 400)), max_size=4),
        min_size=1,
        max_size=12,
    )
)
def test_no_arrangement_of_faces_breaks_the_loop_or_keeps_a_crop(
    places: list[list[tuple[float, float, float]]],
) -> None:
    _, embedder, recorded = play([[face(*place) for place in frame] for frame in places])
    assert not any(crop.any() for crop in embedder.crops)
    assert all(one.subject == ALICE for one in recorded)


def test_a_frame_that_an_enrolment_took_is_used_for_nothing_else() -> None:
    """Also the one that completes it: whether the enrolment is over is not asked again within the frame."""
    recorded: list[Match | PresenceChange] = []
    stages = make_stages([[face(320, 240)]] * 60, recorded, count=60)
    took: list[bool] = []

    def enrol(*_: object) -> bool:
        took.append(len(took) < 50)
        embedded_at.append(len(stages.embedder.crops))  # type: ignore[attr-defined]
        return took[-1]

    embedded_at: list[int] = []
    pipeline.run(replace(stages, enrol=enrol), keep_going=lambda: True)
    assert embedded_at[50] == 0, "nothing was embedded up to and in the last frame of the enrolment"
    assert stages.embedder.crops, "in those after it there was"  # type: ignore[attr-defined]
