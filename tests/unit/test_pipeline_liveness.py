# SPDX-License-Identifier: Apache-2.0
"""The loop announces nobody whose liveness it has not seen, where that is required."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from agent import pipeline
from agent.camera.base import Frame
from agent.detect.face import Face
from agent.door.challenge import Prompt
from agent.door.evidence import MAX_LOOKS, Part
from agent.door.liveness import CheckedLiveness
from agent.door.passive import passive_part
from agent.match.presence import PresenceChange
from agent.match.records import Match
from tests.simulators import heads
from tests.simulators.turning import DELAY, FAR
from tests.unit.test_pipeline import NOBODYS_VECTOR, make_stages, overwritten

FRAMES = 300  # 30 s
Act = Callable[[list[Prompt | None]], tuple[float, float] | None]


def obeys(shown: list[Prompt | None]) -> tuple[float, float] | None:
    """The head's yaw and pitch, some frames after being asked."""
    yaw, pitch = FAR.get(shown[max(0, len(shown) - DELAY)] or "", (0.0, 0.0))
    return yaw * 1.2, pitch * 1.2


def stands_still(shown: list[Prompt | None]) -> tuple[float, float] | None:
    del shown
    return 0.0, 0.0


class Person:
    """A detector that sees one person, who sees what the door shows; ``None`` for an angle: nobody is there."""

    def __init__(self, act: Act, *, second_look: bool = True) -> None:
        self._act, self._second_look = act, second_look
        self.prompt: Prompt | None = None
        self.shown: list[Prompt | None] = []
        self.angles: tuple[float, float] | None = None

    def show(self, prompt: Prompt | None) -> None:
        self.prompt = prompt

    def detect(self, frame: Frame, *, exact: bool, known: Sequence[Face]) -> list[Face]:
        del frame, exact
        self.shown.append(self.prompt)
        self.angles = self._act(self.shown)
        return [] if self.angles is None else [heads.face(320, 240, yaw=self.angles[0], pitch=self.angles[1])]

    def again(self, frame: Frame) -> list[Face]:
        del frame
        return []

    def locate(self, frame: Frame, face: Face) -> Face:
        del frame
        return replace(face) if self._second_look else face


def play(
    person: Person, *, vector: np.ndarray | None = None, frames: int = FRAMES, parts: Sequence[Part] = ()
) -> tuple[pipeline.Stages, list[Match | PresenceChange]]:
    recorded: list[Match | PresenceChange] = []
    changes = {} if vector is None else {"vector": vector}
    stages = make_stages([], recorded, count=frames, **changes)
    check = CheckedLiveness(random.Random(3).randbytes, person.show, parts)
    stages = replace(stages, detector=person, liveness=check)  # type: ignore[arg-type]
    pipeline.run(stages, keep_going=lambda: True)
    return stages, recorded


def test_who_turns_as_asked_is_announced_once_as_passed() -> None:
    person = Person(obeys)
    _, recorded = play(person)
    matches = [one for one in recorded if isinstance(one, Match)]
    assert [one.liveness for one in matches] == ["passed"]
    assert isinstance(recorded[1], PresenceChange)
    first = matches[0].timestamp_ns // 100_000_000
    assert {"left", "right"} & set(person.shown[:first])


@pytest.mark.parametrize(("logit", "announced"), [(1.0, ["passed"]), (-1.0, [])])
def test_who_turns_as_asked_and_looks_like_an_attack_is_not_announced(logit: float, announced: list[str]) -> None:
    seen: list[np.ndarray] = []

    def answer(both: np.ndarray) -> float:
        seen.append(both)
        return logit

    _, recorded = play(Person(obeys), parts=[passive_part(answer, 0.0)])
    assert [one.liveness for one in recorded if isinstance(one, Match)] == announced
    assert bool(recorded) == bool(announced), "nor is who was refused present"
    assert seen
    assert not any(both.any() for both in seen)


def test_a_network_that_fails_lets_nobody_pass() -> None:
    """The unit ends then, and begins anew: what the challenge found counts for nobody."""

    def fails(both: np.ndarray) -> float:
        del both
        raise RuntimeError("of the runtime")

    person = Person(obeys)
    recorded: list[Match | PresenceChange] = []
    check = CheckedLiveness(random.Random(3).randbytes, person.show, [passive_part(fails, 0.0)])
    stages = replace(make_stages([], recorded, count=FRAMES), detector=person, liveness=check)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        pipeline.run(stages, keep_going=lambda: True)
    assert recorded == []


def test_a_passive_network_never_sees_somebody_whom_the_unit_does_not_know() -> None:
    seen: list[np.ndarray] = []
    parts = [passive_part(lambda both: float(seen.append(both) is None), 0.0)]
    _, recorded = play(Person(obeys), vector=NOBODYS_VECTOR, parts=parts)
    assert (recorded, seen) == ([], [])
    play(Person(stands_still), parts=parts)
    assert 0 < len(seen) <= 4 * MAX_LOOKS, "four challenges in half a minute at the most"


def test_what_a_track_passed_dies_with_it() -> None:
    person = Person(lambda shown: obeys(shown) if len(shown) < FRAMES // 2 else None)
    stages, recorded = play(person)
    assert [one.liveness for one in recorded if isinstance(one, Match)] == ["passed"]
    check = stages.liveness
    assert isinstance(check, CheckedLiveness)
    assert check.watched is None
    assert not check._passed


def gone_when_asked(shown: list[Prompt | None]) -> tuple[float, float] | None:
    """Leaves at the first turn and comes back after two seconds."""
    asked = next((number for number, prompt in enumerate(shown) if prompt in FAR), None)
    return None if asked is not None and len(shown) - asked < 20 else (0.0, 0.0)


@pytest.mark.parametrize("act", [stands_still, gone_when_asked], ids=["a picture", "somebody who leaves"])
def test_who_does_not_turn_as_asked_is_not_announced_and_is_not_present(act: Act) -> None:
    person = Person(act)
    _, recorded = play(person)
    assert recorded == []
    assert set(person.shown) & set(FAR), "somebody was asked"


def test_where_the_second_look_sees_no_face_nobody_passes() -> None:
    _, recorded = play(Person(obeys, second_look=False))
    assert recorded == []


def test_somebody_whom_the_unit_does_not_know_is_asked_nothing_and_leaves_nothing() -> None:
    person = Person(obeys)
    stages, recorded = play(person, vector=NOBODYS_VECTOR)
    assert recorded == []
    assert set(person.shown) == {None}
    assert overwritten(stages.embedder)  # type: ignore[arg-type]
    check = stages.liveness
    assert isinstance(check, CheckedLiveness)
    assert (check._watch, check._passed, check._failures) == (None, {}, {})


def test_an_enrolment_or_a_pause_in_the_middle_ends_the_challenge() -> None:
    person = Person(obeys)
    recorded: list[Match | PresenceChange] = []
    stages = make_stages([], recorded, count=FRAMES)
    nobody = make_stages([], [], count=1, enrolled=False).references()
    somebody = stages.references()
    check = CheckedLiveness(random.Random(3).randbytes, person.show)

    def references():  # paused for a moment as soon as somebody is asked to turn
        return nobody if len(person.shown) > 1 and person.shown[-1] in FAR and person.shown[-2] not in FAR else somebody

    stages = replace(stages, detector=person, liveness=check, references=references)  # type: ignore[arg-type]
    pipeline.run(stages, keep_going=lambda: True)
    assert recorded == []
    assert check._failures


def test_a_face_that_is_swapped_during_the_challenge_is_nobody() -> None:
    """Another face on the same track contradicts the probe: what the track was is void."""
    person = Person(obeys)
    recorded: list[Match | PresenceChange] = []
    stages = make_stages([], recorded, count=FRAMES)
    embedder = stages.embedder
    mine = embedder.vector  # type: ignore[attr-defined]

    def act(shown: list[Prompt | None]) -> tuple[float, float] | None:
        turning = "front" in shown[-30:]
        embedder.vector = NOBODYS_VECTOR if turning else mine  # type: ignore[attr-defined]
        return obeys(shown)

    person._act = act
    check = CheckedLiveness(random.Random(3).randbytes, person.show)
    stages = replace(stages, detector=person, liveness=check)  # type: ignore[arg-type]
    pipeline.run(stages, keep_going=lambda: True)
    assert recorded == []
    assert check._failures
