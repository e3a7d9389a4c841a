# SPDX-License-Identifier: Apache-2.0
"""Enrolling again puts no face in another person's place: they would be announced as that person from then on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.embed.records import Embedding
from agent.errors import RefusedError
from agent.gallery.consent import ConsentRecord
from agent.match.compare import compare
from agent.protocol.command import Command
from agent.protocol.subject import SubjectId
from agent.unit.verbs import _enrolment_handlers
from tests.simulators.gallery_life import MODEL, OTHER_MODEL, captures, consent, unit_vector
from tests.unit.test_enrolment_live import GOOD, PERSON, Unit, reason
from tests.unit.test_match_policy import policy

OTHER = unit_vector(np.random.default_rng(9))


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    yield made
    made.audit.close()
    made.gallery.close()


def enrolled(unit: Unit, person: np.ndarray = PERSON, model: str = MODEL) -> tuple[SubjectId, ConsentRecord]:
    record = consent(unit.clock.now())
    return unit.gallery.enrol(captures(unit.rng, person, 5), consent=record, model=model), record


def best(unit: Unit, person: np.ndarray) -> tuple[SubjectId, float] | None:
    found = compare(Embedding(person, MODEL), unit.gallery.references(MODEL))
    return None if found is None else (found.subject, found.score)


def command(args: dict[str, object]) -> Command:
    about = {"site": "hq", "unit": "door-1", "verb": "enrol/commit", "transaction": "t"}
    return Command(**about, cmd_seq=1, issued_at=0, expires_at=60, args=args)


def refused(unit: Unit, subject: SubjectId, person: np.ndarray, record: ConsentRecord, **word: SubjectId) -> str:
    """Try by the session of a running unit and by what the command line calls; the reason, which both share."""
    head = unit.audit.head()
    unit.live.begin("again", record, subject)
    unit.stand(5, person)
    with pytest.raises(RefusedError) as by_command:
        unit.live.commit("again", **word)
    unit.live.interrupt("over", "the try is over")
    with pytest.raises(RefusedError) as by_hand:
        unit.registrar.keep(captures(unit.rng, person, 5), record, subject, **word)
    assert reason(by_command) == reason(by_hand)
    assert unit.audit.head() == head, "the log says nothing of it"
    return reason(by_hand)


def test_who_enrolled_at_another_door_enrols_here_under_the_same_id(unit: Unit) -> None:
    """By a policy without a former name of its model they were refused, as if a reference here were damaged."""
    elsewhere = SubjectId(b"x" * 16)
    assert unit.registrar.keep(captures(unit.rng, PERSON, 5), consent(unit.clock.now()), elsewhere) == elsewhere
    assert best(unit, PERSON) is not None


@pytest.mark.parametrize("new_paper", [True, False])
def test_another_face_does_not_take_a_persons_place(unit: Unit, new_paper: bool) -> None:
    subject, record = enrolled(unit)
    before = best(unit, PERSON)
    attempt = consent(unit.clock.now()) if new_paper else record
    assert refused(unit, subject, OTHER, attempt) == "another_person"
    assert best(unit, PERSON) == before
    found = best(unit, OTHER)
    assert found is not None
    assert found[1] < 0.5


def test_nor_by_saying_so_twice(unit: Unit) -> None:
    subject, _ = enrolled(unit)
    assert refused(unit, subject, OTHER, consent(unit.clock.now()), replace=subject) == "another_person"


@pytest.mark.parametrize("likeness", [0.0, 0.1, 0.2])
def test_nor_does_a_face_that_is_somewhat_alike(unit: Unit, likeness: float) -> None:
    """Below the threshold at which a probe would match; one more person there raises it, and never lowers it."""
    subject, _ = enrolled(unit)
    across = OTHER - PERSON * float(OTHER @ PERSON)
    across /= np.linalg.norm(across)
    alike = (likeness * PERSON + np.sqrt(1 - likeness**2) * across).astype(np.float32)
    assert likeness < policy().threshold(1, 5).value
    assert refused(unit, subject, alike, consent(unit.clock.now())) == "another_person"


def test_the_same_person_renews_their_reference(unit: Unit) -> None:
    subject, _ = enrolled(unit)
    unit.live.begin("again", consent(unit.clock.now()), subject)
    unit.stand(5, PERSON)
    assert unit.live.commit("again")["subject"] == subject.hex()
    assert unit.registrar.keep(captures(unit.rng, PERSON, 5), consent(unit.clock.now()), subject) == subject


def test_a_reference_that_matches_nobody_now_is_not_replaced_unseen(unit: Unit) -> None:
    subject, _ = enrolled(unit)
    unit.clock.step_wall(301 * 86_400)  # its consent seems to have ended
    unit.gallery.sweep(unit.clock.now())
    assert refused(unit, subject, OTHER, consent(unit.clock.now())) == "reference_hidden"


def test_under_another_model_it_takes_a_new_consent_and_a_second_word(unit: Unit) -> None:
    subject, record = enrolled(unit, model=OTHER_MODEL)
    assert refused(unit, subject, PERSON, record) == "consent_used"
    assert refused(unit, subject, PERSON, record, replace=subject) == "consent_used"
    fresh = consent(unit.clock.now())
    assert refused(unit, subject, PERSON, fresh) == "replace_unconfirmed"
    assert refused(unit, subject, PERSON, fresh, replace=SubjectId(secrets.token_bytes(16))) == "wrong_subject"
    assert unit.gallery.model_of(subject) == OTHER_MODEL
    unit.live.begin("again", fresh, subject)
    unit.stand(5, PERSON)
    with pytest.raises(RefusedError, match="naming the subject once more"):
        unit.live.commit("again")
    assert unit.live.commit("again", replace=subject)["subject"] == subject.hex(), "the session went on"
    assert unit.gallery.model_of(subject) == MODEL


def test_the_second_word_is_a_command_of_its_own(unit: Unit) -> None:
    subject, _ = enrolled(unit, model=OTHER_MODEL)
    do = _enrolment_handlers(unit.live)
    unit.live.begin("again", consent(unit.clock.now()), subject)
    unit.stand(5, PERSON)
    for args in ({"enrolment": "again", "replace": "xyz"}, {"enrolment": "again", "replace": 1}):
        with pytest.raises(RefusedError):
            do["enrol/commit"](command(args))
    args = {"enrolment": "again", "replace": subject.hex()}
    assert do["enrol/commit"](command(args))["subject"] == subject.hex()


def test_whoever_is_erased_while_their_reference_is_renewed_ends_the_session(unit: Unit) -> None:
    subject, _ = enrolled(unit)
    unit.live.begin("again", consent(unit.clock.now()), subject)
    unit.stand(2, PERSON)
    unit.gallery.erase(subject)
    unit.live.forget_subject(subject)
    assert not unit.live.capturing
    assert unit.told[-1] == ("again", None, ("subject_erased", "the person was erased meanwhile; nothing was stored"))
    assert not any(embedding.vector.any() for embedding in unit.given), "the captures are overwritten"


def test_somebody_elses_erasure_ends_no_session(unit: Unit) -> None:
    subject, _ = enrolled(unit)
    unit.live.begin("again", consent(unit.clock.now()), subject)
    unit.live.forget_subject(SubjectId(bytes(16)))
    assert unit.live.capturing


def test_a_frame_that_completes_an_enrolment_serves_nothing_else(unit: Unit) -> None:
    unit.begin()
    unit.stand(4)
    assert unit.live.capturing
    unit.vectors += captures(unit.rng, PERSON, 1)
    assert unit.show(GOOD), "the last frame was the enrolment's"
    assert not unit.live.capturing
    assert not unit.show(GOOD)
