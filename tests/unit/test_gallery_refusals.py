# SPDX-License-Identifier: Apache-2.0
"""Whom a gallery refuses, and in which words; how many it holds; what its file looks like to the next version."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from agent.clock import SimulatedClock
from agent.errors import RefusedError
from agent.gallery.consent import ConsentRecord
from agent.gallery.store import MAX_SUBJECTS, GalleryStore
from agent.protocol.subject import SubjectId
from tests.simulators.gallery_life import EVIDENCE, MODEL, captures, consent, open_store


def refused(store: GalleryStore, record: ConsentRecord, subject: SubjectId | None = None) -> tuple[str, str]:
    """Reason and sentence, which are the same before and after the captures."""
    found = []
    for act in (
        lambda: store.admit(record, subject),
        lambda: store.enrol(captures(np.random.default_rng(1)), consent=record, model=MODEL, subject=subject),
    ):
        with pytest.raises(RefusedError) as caught:
            act()
        found.append((caught.value.reason, str(caught.value)))
    assert found[0] == found[1]
    return found[0]


def test_who_is_refused_is_told_why_and_what_to_do(tmp_path: Path) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock) as store:
        used, gone, withdrawn = (consent(clock.now()) for _ in range(3))
        store.enrol(captures(rng), consent=used, model=MODEL)
        erased = store.enrol(captures(rng), consent=gone, model=MODEL)
        store.erase(erased, reason="unused")
        store.erase(store.enrol(captures(rng), consent=withdrawn, model=MODEL))
        new = consent(clock.now())
        assert refused(store, new, SubjectId(bytes(15))) == ("bad_subject", "a subject id has 16 bytes: copy it whole")
        assert refused(store, new, SubjectId(bytes(17)))[0] == "bad_subject"
        assert refused(store, new, erased) == (
            "subject_erased",
            "this subject was erased and must not return: enrol the person without the old id",
        )
        for record in (used, gone):
            reason, sentence = refused(store, record)
            assert reason == "consent_used"
            assert sentence == (
                "this consent was used here before: each person signs a paper of their own, and for another reference"
                " a new one"
            )
        assert refused(store, withdrawn) == (
            "consent_withdrawn",
            "this consent was withdrawn here: only a new one, that the person signs again, counts",
        )
        assert len(store) == 1


def test_a_gallery_is_full_at_its_bound_and_not_before_and_who_is_in_it_may_come_again(tmp_path: Path) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock) as store:
        known = store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as gallery, gallery:
        gallery.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
            " INSERT INTO subjects (subject, model, consent, template, record, expires_at, last_used_on)"
            " SELECT CAST(printf('%016d', n) AS BLOB), model, CAST(printf('%032d', n) AS BLOB), x'00', x'00',"
            " expires_at, last_used_on FROM subjects, numbers WHERE subjects.id = 1",
            (MAX_SUBJECTS - 2,),
        )
    with open_store(tmp_path, clock) as store:
        assert len(store) == MAX_SUBJECTS - 1
        store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)
        assert len(store) == MAX_SUBJECTS
        assert refused(store, consent(clock.now())) == (
            "gallery_full",
            "the gallery holds 100000 references: erase some, or use another unit",
        )
        store.admit(consent(clock.now()), known)


def test_references_are_handed_out_as_comparing_takes_them(tmp_path: Path) -> None:
    clock, rng = SimulatedClock(), np.random.default_rng(0)
    with open_store(tmp_path, clock) as store:
        for expected in range(3):
            matrix = store.references(MODEL).matrix
            assert (matrix.dtype, matrix.shape, matrix.flags.c_contiguous) == (np.float32, (expected, 128), True)
            store.enrol(captures(rng), consent=consent(clock.now()), model=MODEL)


def test_a_gallery_is_sealed_as_the_version_before_sealed_it(tmp_path: Path) -> None:
    """What is sealed, and bound to which place, is a format: a file of today has to open tomorrow.

    Another digest here takes another SCHEMA_VERSION, and something that opens a file of the old one.
    """
    clock, chance = SimulatedClock(), random.Random(11)
    vector = np.full(128, 128**-0.5, np.float32)  # alike on every processor
    with open_store(tmp_path, clock, random=chance.randbytes) as store:
        record = replace(consent(clock.now()), evidence_digest=EVIDENCE)  # the same paper in each run
        subject = store.enrol([vector.copy() for _ in range(3)], consent=record, model=MODEL)
        store.renew()
        assert np.allclose(store.references(MODEL).matrix[0], vector, atol=1e-6)
    with closing(sqlite3.connect(tmp_path / "gallery.db")) as gallery:
        rows = [
            gallery.execute("SELECT subject, consent, record FROM subjects").fetchall(),
            gallery.execute("SELECT subject, wrapped FROM keys").fetchall(),
            gallery.execute("SELECT site, unit, kek, secret, consent_key FROM gallery").fetchall(),
        ]
    assert rows[0][0][0] == subject
    assert hashlib.sha256(repr(rows).encode()).hexdigest()[:16] == "dd253127bbd70d4e"
