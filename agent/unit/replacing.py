# SPDX-License-Identifier: Apache-2.0
"""Whether captures may take the place of a reference: never one person's of another's.

Where old and new come from one model, they must match as a probe would, at the policy's threshold. Two models' numbers
have no common meaning: there a new consent and a second command, that names the subject once more, stand for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import CaptureRefusedError, ConsentError, RefusedError
from agent.gallery.consent import ConsentRecord
from agent.gallery.store import GalleryStore
from agent.gallery.template import Vector, mean_reference
from agent.match.policy import Policy
from agent.protocol.subject import SubjectId


def check_word(
    gallery: GalleryStore, model: str, consent: ConsentRecord, subject: SubjectId | None, *, replace: SubjectId | None
) -> None:
    """Refuse what needs no capture to be refused: raises RefusedError and ConsentError with what is still needed."""
    if replace is not None and replace != subject:
        raise RefusedError("this enrolment was begun for another subject: name that one", reason="wrong_subject")
    before = None if subject is None else gallery.model_of(subject)
    if subject is None or before in (None, model):
        return
    if gallery.stands_under(consent):
        raise ConsentError(
            "the reference was made by another model, so the captures cannot be compared with it: let the person sign a"
            " new consent for them",
            reason="consent_used",
        )
    if replace is None:
        raise RefusedError(
            "the reference was made by another model, so the captures cannot be compared with it: see who stands there,"
            " then say so by naming the subject once more (replace)",
            reason="replace_unconfirmed",
        )


def check_captures(gallery: GalleryStore, policy: Policy, vectors: Sequence[Vector], subject: SubjectId | None) -> None:
    """Refuse captures of another person than ``subject``, whose reference by the same model they are to replace.

    ``vectors`` are 3 to 5 float32 (128,) unit vectors of ``policy.model``. Raises CaptureRefusedError
    (``another_person``, ``reference_hidden``).
    """
    if subject is None or gallery.model_of(subject) not in (policy.model, policy.formerly or policy.model):
        return
    references = gallery.references(policy.model, policy.formerly)
    if subject not in references.subjects:
        raise CaptureRefusedError(
            "the reference of this subject is damaged or past its time, so nothing can be compared with it: erase it,"
            " then enrol the person anew",
            reason="reference_hidden",
        )
    threshold = policy.threshold(len(references.subjects), len(vectors))
    score = float(references.matrix[references.subjects.index(subject)] @ mean_reference(vectors))
    if not score >= threshold.value:  # also a score that is no number
        raise CaptureRefusedError(
            "the captures are not of the person whose reference they were to replace, and nothing was changed: if it is"
            " them all the same, erase the reference and enrol anew",
            reason="another_person",
        )
