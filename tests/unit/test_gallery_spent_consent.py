# SPDX-License-Identifier: Apache-2.0
"""One consent makes one person's reference, and none any more once that is gone, whatever is typed anew around it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.errors import ConsentError, StorageError
from agent.gallery.consent import MAX_CONSENT_DAYS, ConsentRecord
from agent.gallery.records import TOMBSTONE_DAYS
from agent.gallery.store import GalleryStore
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import EVIDENCE, MODEL, OTHER_MODEL, captures, consent, open_store

DAY = 86_400


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


def enrol(
    store: GalleryStore, record: ConsentRecord, subject: SubjectId | None = None, model: str = MODEL
) -> SubjectId:
    return store.enrol(captures(np.random.default_rng(8)), consent=record, model=model, subject=subject)


def refusal(store: GalleryStore, record: ConsentRecord, subject: SubjectId | None = None) -> str:
    """Why ``record`` is refused, at the begin of a session as at its end."""
    reasons = []
    for refused in (lambda: store.admit(record, subject), lambda: enrol(store, record, subject)):
        with pytest.raises(ConsentError) as caught:
            refused()
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]
    return reasons[0]


def typed_anew(record: ConsentRecord, clock: SimulatedClock) -> list[ConsentRecord]:
    """The same paper in a record that differs in all that an operator may type."""
    now = clock.now()
    changes: list[dict[str, object]] = [
        {},
        {"given_at": now, "expires_at": now + timedelta(days=77)},
        {"notice_version": "2027-9", "notice_digest": "sha256:" + "9" * 64},
        {"purpose": record.purpose.replace(" ", "  ")},
        {"units": (*record.units, "door-9")},
        {"age_class": "under_16", "guardian_evidence_digest": EVIDENCE},
    ]
    return [msgspec.structs.replace(record, **change) for change in changes]


def test_a_withdrawn_consent_does_not_enrol_again_however_it_is_typed(tmp_path: Path, clock: SimulatedClock) -> None:
    record = consent(clock.now())
    with open_store(tmp_path, clock) as store:
        store.erase(enrol(store, record))
        assert {refusal(store, again) for again in typed_anew(record, clock)} == {"consent_withdrawn"}
    with open_store(tmp_path, clock) as store:
        store.renew()
        assert {refusal(store, again) for again in typed_anew(record, clock)} == {"consent_withdrawn"}
        enrol(store, consent(clock.now()))


def test_one_consent_does_not_serve_two_people(tmp_path: Path, clock: SimulatedClock) -> None:
    record = consent(clock.now())
    with open_store(tmp_path, clock) as store:
        enrol(store, record)
        other = enrol(store, consent(clock.now()))
        for subject in (None, other, SubjectId(secrets.token_bytes(16))):
            assert {refusal(store, again, subject) for again in typed_anew(record, clock)} == {"consent_used"}
        assert len(store) == 2


def test_a_person_renews_with_the_consent_in_force_and_not_with_a_former_one(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    first, second = consent(clock.now()), consent(clock.now())
    with open_store(tmp_path, clock) as store:
        subject = enrol(store, first, model=OTHER_MODEL)
        assert enrol(store, first, subject) == subject
        enrol(store, second, subject)
        assert refusal(store, first, subject) == refusal(store, first) == "consent_used"
        enrol(store, second, subject)
        store.erase(subject)
        assert refusal(store, first) == "consent_used"
        assert refusal(store, second) == "consent_withdrawn"


@pytest.mark.parametrize("how", ["expired", "unused", "wiped"])
def test_the_consent_of_a_reference_that_went_otherwise_is_used_up_too(
    tmp_path: Path, clock: SimulatedClock, how: str
) -> None:
    record = consent(clock.now(), days=10 if how == "expired" else 300)
    with open_store(tmp_path, clock, unused_days=30) as store:
        enrol(store, record)
        if how == "wiped":
            store.erase_all()
        else:
            clock.advance(40 * DAY)
            store.sweep(clock.now())
        assert len(store) == 0
        anew = msgspec.structs.replace(record, given_at=clock.now(), expires_at=clock.now() + timedelta(days=5))
        assert refusal(store, anew) == "consent_used"


def test_a_spent_consent_is_known_as_long_as_it_could_have_lasted_and_then_forgotten(
    tmp_path: Path, clock: SimulatedClock
) -> None:
    record = consent(clock.now(), days=MAX_CONSENT_DAYS)
    with open_store(tmp_path, clock) as store:
        store.erase(enrol(store, record))
        clock.advance((TOMBSTONE_DAYS - 1) * DAY)
        store.erase(enrol(store, consent(clock.now())))
        assert store._database.row("SELECT count(*) FROM spent") == (2,)
        anew = msgspec.structs.replace(record, given_at=clock.now(), expires_at=clock.now() + timedelta(days=5))
        assert refusal(store, anew) == "consent_withdrawn"
        clock.advance(3 * DAY)
        store.erase(enrol(store, consent(clock.now())))
        assert store._database.row("SELECT count(*) FROM spent") == (2,), "of three, the first was forgotten"
        assert store._database.row("SELECT count(*) FROM tombstones") == (2,)


def test_what_stays_of_a_consent_tells_nothing_without_the_units_key(tmp_path: Path, clock: SimulatedClock) -> None:
    record = consent(clock.now())
    folders = [tmp_path / "door-3", tmp_path / "annex"]
    marks = []
    for folder in folders:
        folder.mkdir()
        with open_store(folder, clock) as store:
            subject = enrol(store, record)
            store.erase(subject)
            row = store._database.row("SELECT consent, reason, until FROM spent")
        assert row is not None
        marks.append(row[0])
        assert row[2] == (clock.now() + timedelta(days=TOMBSTONE_DAYS)).date().isoformat(), "to the day"
        content = b"".join(path.read_bytes() for path in folder.iterdir())
        for told in (record.evidence_digest, record.evidence_digest.removeprefix("sha256:")):
            for known in (told.encode(), hashlib.sha256(told.encode()).digest()):
                assert known not in content
        assert bytes.fromhex(record.evidence_digest.removeprefix("sha256:")) not in content
        assert subject not in content
    assert marks[0] != marks[1], "two units' marks of one consent have nothing in common"


def test_a_full_disk_at_the_erasure_does_not_free_the_consent(tmp_path: Path, clock: SimulatedClock) -> None:
    record = consent(clock.now())
    fails: Callable[[int], bytes] = secrets.token_bytes

    def random(size: int) -> bytes:
        return fails(size)

    def full(size: int) -> bytes:
        raise StorageError("no space left: free space")

    with open_store(tmp_path, clock, random=random) as store:
        subject = enrol(store, record)
        fails = full
        with pytest.raises(StorageError):
            store.erase(subject)
        fails = secrets.token_bytes
        assert refusal(store, record) == "consent_withdrawn"
        assert refusal(store, record, subject) == "subject_erased"
        store.sweep(clock.now())
        assert refusal(store, record) == "consent_withdrawn"
