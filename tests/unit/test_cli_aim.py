# SPDX-License-Identifier: Apache-2.0
"""Aiming and enrolment speak to the people in front of the camera, and keep nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
import yaml

from agent.camera.base import CameraInfo, Frame, RgbPicture
from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.detect.face import Face
from agent.embed.records import CROP_SIZE, EMBEDDING_DIM, Crop, Embedding
from agent.errors import CaptureRefusedError
from agent.gallery.consent import Terms
from agent.gallery.references import References
from agent.unit.aim import look
from agent.unit.capturing import EnrolmentSession
from agent.unit.spot_session import SpotSession, capture
from tests.simulators.acted import ANYWHERE, Acted
from tests.simulators.config import example, parse_config
from tests.simulators.gallery_life import MODEL, PURPOSE, SITE, UNIT, consent
from tests.simulators.heads import face
from tests.unit.test_match_policy import policy

WIDTH, HEIGHT, RATE = 1280, 720, 20


class Room:
    """A camera and a detector at once: ``seconds`` of pictures of grey level ``light`` in which ``faces`` are."""

    def __init__(self, seconds: float, *faces: Face, light: int = 120) -> None:
        self._count = round(seconds * RATE) + 1
        self._faces = list(faces)
        self._light = light

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def info(self) -> CameraInfo:
        return CameraInfo("room", WIDTH, HEIGHT, RATE, live=False)

    def frames(self) -> Iterator[Frame]:
        for number in range(self._count):
            small = np.full((18, 32, 3), self._light, np.uint8)
            yield Frame(number, number * 10**9 // RATE, small, RgbPicture(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))

    def detect(self, frame: Frame) -> list[Face]:
        assert frame.lores.shape == (18, 32, 3)
        return self._faces


def config(**changes: object) -> Config:
    return parse_config(yaml.safe_dump({**example(), **changes}).encode(), Path("unit.yaml"))


def aim(room: Room, seconds: float = 60, **changes: object) -> list[str]:
    return list(look(room, room, config(**changes), SimulatedClock(), seconds=seconds))


MIDDLE = (WIDTH / 2, HEIGHT / 2)


def test_an_empty_view_is_told_twice_a_second_with_its_rate() -> None:
    assert aim(Room(2)) == [" 20.0 frames/s  detection 0 ms  nobody in view"] * 4


def test_aiming_ends_by_itself() -> None:
    assert len(aim(Room(10), seconds=1)) == 2


def test_a_good_face_is_accepted_after_its_stay() -> None:
    lines = aim(Room(2, face(*MIDDLE, 150)))
    assert lines[0].endswith("good, stay for a moment")
    assert lines[-1].endswith("face 150 px, turned 0 degrees: accepted here")


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (face(*MIDDLE, 60), "too small: come nearer than this, 80 px are needed"),
        (face(*MIDDLE, 150, yaw=40), "turned away: 25 degrees are allowed"),
        (face(100, 360, 150), "outside the zone"),
    ],
)
def test_a_refused_face_is_told_why(shown: Face, words: str) -> None:
    assert all(line.endswith(words) for line in aim(Room(1, shown)))


@pytest.mark.parametrize(
    ("light", "words"),
    [
        (39, "detection 0 ms  TOO DARK  nobody"),
        (40, "detection 0 ms  nobody"),
        (220, "detection 0 ms  nobody"),
        (221, "detection 0 ms  TOO BRIGHT  nobody"),
    ],
)
def test_bad_light_is_told(light: int, words: str) -> None:
    assert all(words in line for line in aim(Room(1, light=light)))


def test_a_button_unit_is_aimed_as_if_the_button_were_pressed() -> None:
    near, far = face(400, 360, 200), face(1000, 360, 100)
    (line, *_) = aim(Room(1, near, far), activation={"kind": "button", "name": "door"})
    assert "face 200 px, turned 0 degrees: accepted here" in line
    assert "face 100 px, turned 0 degrees: somebody else is nearer" in line


class Person:
    """An embedder that always sees the same person, each time a little different."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(5)
        self._person = self._rng.normal(size=EMBEDDING_DIM)

    def embed(self, crop: Crop) -> Embedding:
        assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
        vector = self._person + self._rng.normal(size=EMBEDDING_DIM) * 0.2
        return Embedding((vector / np.linalg.norm(vector)).astype(np.float32), MODEL)


def session() -> SpotSession:
    now = SimulatedClock().now()
    noise = np.random.default_rng(1).integers(0, 255, (CROP_SIZE, CROP_SIZE, 3)).astype(np.uint8)
    made = EnrolmentSession(
        Person(),
        consent(now),
        references=References((), np.zeros((0, EMBEDDING_DIM), np.float32), MODEL),
        policy=policy(model=MODEL),
        terms=Terms(SITE, UNIT, PURPOSE),
        now=now,
        align=lambda *_: noise,
    )
    return SpotSession(made, Acted(), ANYWHERE)


def test_enrolment_says_each_step_once_and_ends_with_the_captures() -> None:
    room, told = Room(30, face(*MIDDLE, 200)), []
    vectors = capture(room, room, session(), pressed=lambda: False, tell=told.append)
    assert len(vectors) == 5
    assert told[0].startswith("1 of 5")
    assert told[-1] == "5 of 5"
    assert len(told) == len(set(told))


def test_a_person_who_is_too_far_away_is_told_and_nothing_is_stored() -> None:
    room, told = Room(5, face(*MIDDLE, 60)), []
    with pytest.raises(CaptureRefusedError, match="0 of 5 captures were taken, nothing was stored"):
        capture(room, room, session(), pressed=lambda: False, tell=told.append)
    assert told == ["0 of 5: come nearer"]


def test_a_camera_without_pictures_is_no_enrolment() -> None:
    room = Room(-1)
    with pytest.raises(CaptureRefusedError, match="no captures were taken"):
        capture(room, room, session(), pressed=lambda: False, tell=print)
