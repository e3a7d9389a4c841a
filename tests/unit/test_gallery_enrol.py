# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from agent.camera.base import Frame, RgbPicture
from agent.clock import SimulatedClock
from agent.detect.face import Face
from agent.embed.records import Crop, Embedding
from agent.errors import CaptureRefusedError, ConsentError
from agent.gallery.consent import Terms
from agent.gallery.references import References
from agent.gallery.template import mean_reference
from agent.protocol.subject import SubjectId
from agent.unit.capturing import ADVICE, SESSION_NS, EnrolmentSession, Progress, Quality, sharpness
from tests.simulators.gallery_life import MODEL, PURPOSE, SITE, UNIT, captures, consent, unit_vector
from tests.simulators.heads import face
from tests.unit.test_match_policy import policy

SECOND = 1_000_000_000
NOBODY = References((), np.zeros((0, 128), np.float32), MODEL)
GOOD = face(300, 300, 200)


def picture(seed: int = 0, *, blur: float = 0, gain: float = 1, offset: float = 0) -> Crop:
    """A crop with detail of all sizes, as a face has."""
    rng = np.random.default_rng(seed)
    total = np.zeros((112, 112))
    for size, strength in ((4, 30), (8, 20), (16, 14), (32, 8), (112, 3)):
        coarse = Image.fromarray(rng.normal(size=(size, size)).astype(np.float32))
        total += np.asarray(coarse.resize((112, 112), Image.Resampling.BICUBIC)) * strength
    grey = np.clip((128 + total) * gain + offset, 0, 255).astype(np.uint8)
    image = Image.fromarray(np.stack([grey] * 3, axis=2))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)) if blur else image)


@dataclass
class Studio:
    """Aligns to a given crop and embeds to a given vector: the stages before enrolment, in the test's hands."""

    crop: Crop = field(default_factory=picture)
    vectors: list[np.ndarray] = field(default_factory=list)
    given: list[Embedding] = field(default_factory=list)
    mirrored: bool = False

    def align(self, frame: Frame, shown: Face) -> Crop:
        return self.crop

    def embed(self, crop: Crop) -> Embedding:
        """The next vector, for a crop and again for its mirror image, which comes after it."""
        self.given.append(Embedding(self.vectors.pop(0).copy() if not self.mirrored else self.again, MODEL))
        self.again, self.mirrored = self.given[-1].vector.copy(), not self.mirrored
        return self.given[-1]

    def session(self, references: References = NOBODY, **changes: object) -> EnrolmentSession:
        now = SimulatedClock().now()
        arguments = {
            "align": self.align,
            "references": references,
            "policy": policy(),
            "terms": Terms(SITE, UNIT, PURPOSE),
            "now": now,
        }
        return EnrolmentSession(self, changes.pop("consent", consent(now)), **{**arguments, **changes})


def frame(at_ns: int) -> Frame:
    empty = np.zeros((4, 4, 3), np.uint8)
    return Frame(0, at_ns, empty, RgbPicture(empty))


@pytest.fixture
def person() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return captures(rng, unit_vector(rng), 5)


def test_a_person_who_does_as_told_is_enrolled_in_five_captures(person) -> None:
    studio = Studio(vectors=list(person))
    session = studio.session()
    for number in range(5):
        progress = session.offer(frame(number * SECOND), [GOOD])
        assert progress == Progress(number + 1, 5, None)
    assert progress.complete
    assert session.offer(frame(6 * SECOND), [GOOD]) == Progress(5, 5, None), "no sixth is taken"
    vectors = session.finish()
    assert np.allclose(np.stack(vectors), np.stack(person))
    assert np.linalg.norm(mean_reference(vectors)) == pytest.approx(1, abs=1e-6)
    with pytest.raises(CaptureRefusedError):
        session.finish()


@pytest.mark.parametrize(
    ("faces", "crop", "reason"),
    [
        ([], picture(), "none"),
        ([GOOD, face(900, 300, 60)], picture(), "two_faces"),
        ([face(300, 300, 100)], picture(), "small"),
        ([Face((0, 0, float("nan"), 300), GOOD.landmarks, 0.9)], picture(), "small"),
        ([face(300, 300, 200, yaw=35)], picture(), "turned"),
        ([face(300, 300, 200, pitch=-30)], picture(), "turned"),
        ([GOOD], picture(gain=0.3), "dark"),
        ([GOOD], picture(offset=110), "bright"),
        ([GOOD], picture(blur=4), "blurred"),
        ([GOOD], np.full((112, 112, 3), 128, np.uint8), "blurred"),
    ],
)
def test_an_unfit_frame_is_refused_with_advice_and_without_an_embedding(faces, crop, reason) -> None:
    studio = Studio(crop=crop)
    progress = studio.session().offer(frame(0), faces)
    assert (progress.captured, progress.refusal) == (0, reason)
    assert progress.advice == ADVICE[reason] != ""
    assert studio.given == []


def test_captures_are_taken_over_time_and_not_from_one_still(person) -> None:
    studio = Studio(vectors=[person[0], person[0], person[1]])
    session = studio.session()
    assert session.offer(frame(0), [GOOD]).refusal is None
    assert session.offer(frame(SECOND // 2), [GOOD]).refusal == "wait"
    assert session.offer(frame(SECOND), [GOOD]).refusal == "still"
    assert session.offer(frame(2 * SECOND), [GOOD]).captured == 2


def looks(session: EnrolmentSession, *faces: Face) -> list[str | None]:
    return [session.offer(frame(number * SECOND), [shown]).refusal for number, shown in enumerate(faces)]


def test_captures_differ_in_pose_distance_or_expression(person) -> None:
    one, alike = person[0], unit_towards(person[0], person[1], 0.985)
    shown = {
        "turned": face(300, 300, 200, yaw=10),
        "bowed": face(300, 300, 200, pitch=10),
        "nearer": face(300, 300, 220),
    }
    for other in shown.values():
        assert looks(Studio(vectors=[one, alike]).session(), GOOD, other) == [None, None]
    assert looks(Studio(vectors=[one, alike]).session(), GOOD, GOOD) == [None, "alike"]
    assert looks(Studio(vectors=person[:2]).session(), GOOD, GOOD) == [None, None], "another expression"
    assert ADVICE["alike"]


def test_who_cannot_change_anything_is_enrolled_all_the_same_after_a_while(person) -> None:
    vectors = [unit_towards(person[0], other, 0.985) for other in person[1:]]
    session = Studio(vectors=[vectors[0], *[v for v in vectors[1:] for _ in range(2)]]).session()
    assert looks(session, *[GOOD] * 5) == [None, "alike", None, "alike", None]


def test_a_capture_whose_mirror_image_embeds_elsewhere_is_refused_with_advice(person) -> None:
    class HalfCovered(Studio):
        def embed(self, crop: Crop) -> Embedding:
            seen = super().embed(crop)
            return seen if self.mirrored else Embedding(unit_vector(np.random.default_rng(7)), MODEL)

    progress = HalfCovered(vectors=list(person)).session().offer(frame(0), [GOOD])
    assert (progress.captured, progress.refusal) == (0, "unclear")
    assert progress.advice


def unit_towards(one: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """A unit vector with that cosine to ``one``, towards ``other``."""
    rest = other - (one @ other) * one
    return np.asarray(cosine * one + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest), np.float32)


def test_another_face_in_between_drops_what_was_captured(person) -> None:
    stranger = unit_vector(np.random.default_rng(99))
    studio = Studio(vectors=[person[0], person[1], stranger, person[2]])
    session = studio.session()
    for number in range(2):
        session.offer(frame(number * SECOND), [GOOD])
    assert session.offer(frame(2 * SECOND), [GOOD]) == Progress(0, 5, "another_face")
    assert all(not e.vector.any() for e in studio.given), "and overwrites it"
    assert session.offer(frame(3 * SECOND), [GOOD]).captured == 1


def test_who_is_enrolled_already_is_refused_clearly(person) -> None:
    enrolled = mean_reference(person)[np.newaxis]
    anna = SubjectId(b"a" * 16)
    studio = Studio(vectors=list(person))
    session = studio.session(References((anna,), enrolled, MODEL))
    for number in range(5):
        session.offer(frame(number * SECOND), [GOOD])
    with pytest.raises(CaptureRefusedError, match="already"):
        session.finish()
    assert all(not e.vector.any() for e in studio.given)


def test_a_reference_may_be_renewed_by_its_own_subject(person) -> None:
    anna = SubjectId(b"a" * 16)
    studio = Studio(vectors=list(person))
    session = studio.session(References((anna,), mean_reference(person)[np.newaxis], MODEL), subject=anna)
    for number in range(5):
        session.offer(frame(number * SECOND), [GOOD])
    assert len(session.finish()) == 5


def test_two_captures_are_not_enough(person) -> None:
    session = Studio(vectors=list(person)).session()
    for number in range(2):
        session.offer(frame(number * SECOND), [GOOD])
    with pytest.raises(CaptureRefusedError, match="take 3 to 5"):
        session.finish()


def test_a_session_does_not_stay_open(person) -> None:
    studio = Studio(vectors=list(person))
    session = studio.session()
    session.offer(frame(0), [GOOD])
    assert session.offer(frame(SESSION_NS + 1), [GOOD]) == Progress(0, 5, "timed_out")
    assert not studio.given[0].vector.any()


def test_a_cancelled_session_is_overwritten(person) -> None:
    studio = Studio(vectors=list(person))
    session = studio.session()
    session.offer(frame(0), [GOOD])
    session.cancel()
    assert not studio.given[0].vector.any()


def test_no_session_begins_without_a_consent_that_holds() -> None:
    now = SimulatedClock().now()
    with pytest.raises(ConsentError):
        Studio().session(consent=consent(now, units=("door-9",)))
    with pytest.raises(ConsentError):
        Studio().session(terms=Terms(SITE, UNIT, "count how many hours each of them spends inside"))


@pytest.mark.parametrize("captures_wanted", [2, 6])
def test_no_other_number_of_captures_can_be_asked_for(captures_wanted) -> None:
    with pytest.raises(ValueError, match="3 to 5"):
        Quality(captures=captures_wanted)


def test_sharpness_does_not_mistake_low_contrast_for_blur() -> None:
    luma = picture().astype(np.float32).mean(axis=2)
    assert sharpness(luma * 0.4 + 60) == pytest.approx(sharpness(luma), rel=0.01)
    blurred = [sharpness(picture(blur=b).astype(np.float32).mean(axis=2)) for b in (0, 1, 2, 4)]
    assert blurred == sorted(blurred, reverse=True)


shown = st.sampled_from(["good", "none", "two", "small", "turned"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3 * SECOND), shown, st.integers(0, 2)), max_size=60))
def test_whatever_is_offered_only_one_persons_spaced_captures_are_kept(history) -> None:
    rng = np.random.default_rng(1)
    people = [unit_vector(rng) for _ in range(3)]
    views = {
        "good": [GOOD],
        "none": [],
        "two": [GOOD, GOOD],
        "small": [face(0, 0, 50)],
        "turned": [face(0, 0, 200, yaw=60)],
    }
    studio = Studio()
    session, now, kept = studio.session(), 0, []
    for step, view, who in history:
        now += step
        studio.vectors = captures(rng, people[who], 1)
        progress = session.offer(frame(now), views[view])
        assert 0 <= progress.captured <= 5
        if progress.captured > len(kept):
            assert view == "good"
            kept.append((now, who))
        elif progress.captured < len(kept):
            assert progress.refusal in ("another_face", "timed_out")
            kept = []
        assert len({who for _, who in kept}) <= 1
        assert all(b[0] - a[0] >= 700_000_000 for a, b in pairwise(kept))
