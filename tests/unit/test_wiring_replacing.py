# SPDX-License-Identifier: Apache-2.0
"""Whether captures may take a reference's place: each refusal by its words, and the score at its bound."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from msgspec.structs import replace

from agent.embed.embedder import EMBEDDING_DIM
from agent.errors import CaptureRefusedError, ConsentError, RefusedError
from agent.gallery.references import References
from agent.match.policy import Policy
from agent.protocol.subject import SubjectId
from agent.unit.replacing import check_captures, check_word
from tests.unit.test_match_policy import policy

ANNA, BO = SubjectId(b"a" * 16), SubjectId(b"b" * 16)
OLD = "sha256:" + "0" * 64
RULES = policy()
CONSENT = cast("Any", "a consent")


class Gallery:
    """A gallery that holds Anna's reference, by one model, under one consent."""

    def __init__(self, model: str | None = RULES.model, *, hidden: bool = False, stands: bool = False) -> None:
        self.model, self.stands = model, stands
        self.matrix = np.zeros((2, EMBEDDING_DIM), np.float32)
        self.matrix[0, 1] = self.matrix[1, 0] = 1.0
        self.found = References((BO,) if hidden else (BO, ANNA), self.matrix[: 1 if hidden else 2], RULES.model)
        self.asked: list[tuple[str, object]] = []

    def model_of(self, subject: SubjectId) -> str | None:
        return self.model if subject == ANNA else None

    def stands_under(self, consent: object) -> bool:
        assert consent == CONSENT
        return self.stands

    def references(self, model: str, formerly: object) -> References:
        self.asked.append((model, formerly))
        return self.found


def word(gallery: Gallery, subject: SubjectId | None, *, again: SubjectId | None = None) -> None:
    check_word(cast("Any", gallery), RULES.model, CONSENT, subject, replace=again)


def captures(likeness: float) -> list[np.ndarray]:
    """Three captures of one view, as like Anna's reference as that."""
    vector = np.zeros(EMBEDDING_DIM, np.float32)
    vector[0], vector[2] = likeness, (1.0 - likeness**2) ** 0.5
    return [vector] * 3


def test_somebody_new_and_the_same_model_need_no_second_word() -> None:
    for gallery, subject in ((Gallery(), None), (Gallery(), BO), (Gallery(), ANNA), (Gallery(None), ANNA)):
        word(gallery, subject)
        word(gallery, subject, again=subject)


def test_the_second_word_names_whom_the_session_was_begun_for() -> None:
    for subject, again in ((ANNA, BO), (None, ANNA)):
        with pytest.raises(RefusedError) as refused:
            word(Gallery(), subject, again=again)
        assert str(refused.value) == "this enrolment was begun for another subject: name that one"
        assert refused.value.reason == "wrong_subject"


def said(error: RefusedError) -> tuple[str, str]:
    return error.reason, str(error)


def test_under_another_model_a_new_consent_is_needed_then_the_second_word() -> None:
    with pytest.raises(ConsentError) as consent:
        word(Gallery(OLD, stands=True), ANNA, again=ANNA)
    other = "the reference was made by another model, so the captures cannot be compared with it: "
    assert said(consent.value) == ("consent_used", other + "let the person sign a new consent for them")
    with pytest.raises(RefusedError) as refused:
        word(Gallery(OLD), ANNA)
    once_more = "see who stands there, then say so by naming the subject once more (replace)"
    assert said(refused.value) == ("replace_unconfirmed", other + once_more)
    word(Gallery(OLD), ANNA, again=ANNA)


def check(gallery: Gallery, likeness: float, subject: SubjectId | None = ANNA, rules: Policy = RULES) -> None:
    check_captures(cast("Any", gallery), rules, captures(likeness), subject)


def test_captures_take_the_place_of_a_reference_that_they_match_as_a_probe_would() -> None:
    least = RULES.threshold(2, 3).value
    gallery = Gallery()
    check(gallery, least + 1e-6)
    assert gallery.asked == [(RULES.model, RULES.formerly)]
    with pytest.raises(CaptureRefusedError) as refused:
        check(Gallery(), least - 1e-6)
    why = (
        "the captures are not of the person whose reference they were to replace, and nothing was changed: if it is"
        " them all the same, erase the reference and enrol anew"
    )
    assert said(refused.value) == ("another_person", why)


def test_a_reference_that_is_not_seen_is_not_replaced() -> None:
    with pytest.raises(CaptureRefusedError) as refused:
        check(Gallery(hidden=True), 1.0)
    why = (
        "the reference of this subject is damaged or past its time, so nothing can be compared with it: erase it, then"
        " enrol the person anew"
    )
    assert said(refused.value) == ("reference_hidden", why)


def test_nothing_is_compared_where_there_is_nothing_to_compare_with() -> None:
    """Somebody who enrolled at another door has no reference at this one: they were told that it is damaged."""
    former = replace(RULES, formerly=OLD)
    for rules in (RULES, former):
        for gallery, subject in ((Gallery(), None), (Gallery(None), ANNA), (Gallery(None, hidden=True), ANNA)):
            check(gallery, 0.0, subject, rules)
            assert gallery.asked == []
    check(Gallery(OLD), 0.0)
    with pytest.raises(CaptureRefusedError):
        check(Gallery(OLD), 0.0, ANNA, former)
