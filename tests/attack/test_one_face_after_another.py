# SPDX-License-Identifier: Apache-2.0
"""Somebody who shows one face after another until one is taken for a person who enrolled.

As designed one stranger of a thousand is; so what counts is how many can be shown in an evening. The unit is the
assembled one: its gate, tracker, decider, references and recorder; what stands in are camera and networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from agent import pipeline
from agent.camera.base import Frame, RgbPicture
from agent.detect.change import ChangeTest
from agent.detect.face import Face
from agent.detect.view import WHOLE
from agent.embed.records import Crop, Embedding
from agent.match.pace import FIRST_PAUSE_NS, FORGOTTEN_NS, LONGEST_PAUSE_NS, Pace
from agent.unit.looking import ALWAYS_NS
from agent.unit.service import Service
from tests.unit.test_pipeline import HEIGHT, WIDTH, face
from tests.unit.test_wiring import Unit, about

FRAME_NS = 100_000_000
EVENING_S = 600
CROPS = 5  # of an attempt that fails, see models/policy.json


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


class Shown:
    """Stands before the camera: ``vector`` is whose face it is, ``place`` where; ``seen`` counts looks at this face."""

    def __init__(self, service: Service, seconds: float) -> None:
        self.service, self.frames_left = service, round(seconds * 1e9 / FRAME_NS)
        self.random = np.random.default_rng(11)
        self.at_ns = service._clock.monotonic_ns()
        self.faces = 0
        self.turn: Callable[[], None] = lambda: None
        self.show(None)

    def show(self, vector: Any) -> None:
        """Another face, at another place of the zone, so that it is another track."""
        if vector is None:
            vector = self.random.normal(size=128)
        self.vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        self.faces += 1
        self.seen = 0

    def frames(self) -> Iterator[Frame]:
        for number in itertools.count():
            if number >= self.frames_left:
                return
            self.at_ns += FRAME_NS
            self.turn()
            picture = RgbPicture(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
            yield Frame(number, self.at_ns, np.zeros((240, 320, 3), np.uint8), picture)

    def detect(self, frame: Frame, *, exact: bool, known: Sequence[Face]) -> list[Face]:
        return [face(250 if self.faces % 2 else 390, 240, 110)]

    def locate(self, frame: Frame, one: Face) -> Face:
        return one

    def embed(self, crop: Crop) -> Embedding:
        self.seen += 1
        return Embedding(self.vector.copy(), self.service._model)


def play(service: Service, shown: Shown) -> None:
    """Have the service's own stages look at it."""
    always = ChangeTest(WHOLE, min_face_px=80, hold_ns=ALWAYS_NS)
    stands: Any = shown
    stages = replace(service._stages, camera=stands, detector=stands, embedder=stands, change=always)
    pipeline.run(stages, keep_going=lambda: True)


def tried_in_an_evening(service: Service) -> int:
    """Faces that were compared, where each is taken away as soon as its attempt is over."""
    shown = Shown(service, EVENING_S)

    def turn() -> None:
        if shown.seen >= 2 * CROPS:  # each crop and its mirror image
            shown.show(None)

    shown.turn = turn
    play(service, shown)
    return shown.faces


def test_one_face_after_another_is_slowed_down(unit: Unit) -> None:
    with unit.running() as service:
        before = service._stores.outbox.head()
        tried = tried_in_an_evening(service)
        print(f"{tried} faces in {EVENING_S} s")
        assert tried <= EVENING_S / (LONGEST_PAUSE_NS / 1e9) + 10
        assert service._stores.outbox.head() == before, "nobody is told"


def test_person_who_comes_after_them_is_matched_soon(unit: Unit) -> None:
    """The pause is for a new face, whoever it is; it is short, and no second one follows for who is named."""
    with unit.running() as service:
        tried_in_an_evening(service)
        references, known = service._references(), len(about(service, "match"))
        shown = Shown(service, 7)
        shown.at_ns += EVENING_S * 1_000_000_000
        shown.show(references.matrix[0])
        play(service, shown)
        assert len(about(service, "match")) == known + 1


def test_first_stranger_keeps_nobody_waiting() -> None:
    pace = Pace()
    pace.failed(0)
    assert not pace.holds(1)
    pace.failed(1_000)
    assert pace.holds(1_001)
    pace.failed(61_000_000_000 + 1_000)
    assert not pace.holds(61_000_000_000 + 1_001), "after a minute nothing of it is left"


def test_group_whose_attempts_end_one_by_one_keeps_nobody_waiting_for_all_of_them() -> None:
    pace, step, came = Pace(), LONGEST_PAUSE_NS // 10, None
    for now in range(0, 20 * step, step):  # in each frame a face that waits is asked about before an attempt ends
        if pace.holds(now) and came is None:
            came = now
        elif came is not None and not pace.holds(now):
            break
        pace.failed(now)
    assert came is not None
    assert now - came <= LONGEST_PAUSE_NS


def test_clock_that_goes_back_holds_nobody_for_long() -> None:
    pace = Pace()
    for _ in range(9):
        pace.failed(10**18)
    assert not pace.holds(0)
    assert not pace.holds(10**18 + LONGEST_PAUSE_NS)


def test_each_failure_doubles_the_pause_up_to_the_longest() -> None:
    pace, now, pauses = Pace(), 10**12, []
    for _ in range(7):
        pace.failed(now)
        begun = now
        while pace.holds(now):
            now += FIRST_PAUSE_NS
        pauses.append((now - begun) / FIRST_PAUSE_NS)
        assert begun == now or (pace.holds(now - 1) and not pace.holds(begun - 1))
    assert pauses == [0, 1, 2, 4, 8, 8, 8]
    assert LONGEST_PAUSE_NS == 8 * FIRST_PAUSE_NS


@pytest.mark.parametrize("direction", [1, -1], ids=["later", "by-a-clock-that-went-back"])
@pytest.mark.parametrize(("apart", "again"), [(FORGOTTEN_NS - 1, True), (FORGOTTEN_NS, False)])
def test_failure_is_forgotten_when_its_minute_is_over_and_no_sooner(direction: int, apart: int, again: bool) -> None:
    pace, first = Pace(), 10**12
    pace.failed(first)
    pace.failed(first + direction * apart)
    assert pace.holds(first + direction * apart) == again
