# SPDX-License-Identifier: Apache-2.0
"""Who is enrolled: the random id, its spelling for people, and the digest that outlives it."""

from __future__ import annotations

import hashlib
from typing import NewType

from agent.errors import RefusedError

SubjectId = NewType("SubjectId", bytes)  # 16 random bytes, made at enrolment
SUBJECT_BYTES = 16


def parse_subject(text: object) -> SubjectId:
    """A subject id from its hex spelling; RefusedError otherwise."""
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        value = b""
    if len(value) != SUBJECT_BYTES:
        raise RefusedError(
            f"a subject id is {2 * SUBJECT_BYTES} hex digits: copy it from the enrolment", reason="bad_subject"
        )
    return SubjectId(value)


def subject_digest(subject: SubjectId) -> str:
    """Digest that stands for an erased subject."""
    return "sha256:" + hashlib.sha256(b"postern/tombstone/v1" + subject).hexdigest()
