# SPDX-License-Identifier: Apache-2.0
"""No sequence of commands enrols without a valid consent, or keeps anything past withdrawal or retention.

Hypothesis plays random commands against a real store on real files and compares with a model that is only
a few dates. POSTERN_LONG_RUNS sets how many sequences of up to 50 commands are played (default 12).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from agent.audit.ageing import WINDOW_S
from agent.clock import SimulatedClock
from agent.embed.records import Embedding
from agent.errors import ConsentError, RefusedError
from agent.gallery.consent import ConsentRecord
from agent.gallery.records import TOMBSTONE_DAYS
from agent.match.compare import compare
from agent.protocol.subject import subject_digest
from tests.simulators.gallery_life import EVIDENCE, MODEL, OTHER_MODEL, captures, consent, open_store, unit_vector

LONG_RUNS = int(os.environ.get("POSTERN_LONG_RUNS", "12"))
UNUSED_DAYS = 60

INVALID = (
    {"site": "branch"},
    {"units": ("door-4",)},
    {"purpose": "count how many hours each of them spends inside the building"},
    {"age_class": "under_14"},
    {"age_class": "under_16"},
)


class GalleryLife(RuleBasedStateMachine):
    """A unit's gallery over months."""

    subjects = Bundle("subjects")
    former = Bundle("former")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postern-life-"))
        self.clock = SimulatedClock()
        self.rng = np.random.default_rng(0)
        self.store = open_store(self.folder, self.clock, unused_days=UNUSED_DAYS)
        self.clock.advance(WINDOW_S)  # a unit that has run for a while: it knows the time
        self.store.sweep(self.clock.now())
        self.expires: dict[bytes, object] = {}  # the model: when each consent ends,
        self.used: dict[bytes, object] = {}  # when each was used last,
        self.model: dict[bytes, str] = {}  # which model made its template,
        self.faces: dict[bytes, np.ndarray] = {}  # what they look like,
        self.papers: dict[bytes, ConsentRecord] = {}  # what each agreed to last,
        self.spent: dict[str, tuple[ConsentRecord, datetime]] = {}  # what may not be used again, and since when,
        self.gone: dict[bytes, datetime] = {}  # and when the others went

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(target=subjects, days=st.integers(1, 1095), model=st.sampled_from([MODEL, MODEL, OTHER_MODEL]))
    def enrol(self, days: int, model: str) -> bytes:
        face = unit_vector(self.rng)
        record = consent(self.clock.now(), days=days, age_class="under_16", guardian_evidence_digest=EVIDENCE)
        subject = self.store.enrol(captures(self.rng, face), consent=record, model=model)
        self._note(subject, record, model, face)
        return subject

    @rule(changes=st.sampled_from(INVALID))
    def enrol_without_a_consent_for_this(self, changes: dict) -> None:
        self._refused(consent(self.clock.now(), **changes))

    @rule(ago=st.integers(0, 400), days=st.integers(-5, 2000))
    def enrol_outside_the_consents_time(self, ago: int, days: int) -> None:
        given_at = self.clock.now() - timedelta(days=ago)
        record = consent(self.clock.now(), given_at=given_at, expires_at=given_at + timedelta(days=days))
        if days <= ago or days > 1095:
            self._refused(record)

    @rule(subject=subjects, days=st.integers(1, 1095))
    def replace(self, subject: bytes, days: int) -> None:
        record = consent(self.clock.now(), days=days)
        face = unit_vector(self.rng)
        if subject in self.expires:
            self.store.enrol(captures(self.rng, face), consent=record, model=MODEL, subject=subject)
            self._note(subject, record, MODEL, face)
        elif self._has_tombstone(subject):
            self._refused(record, subject=subject)

    @rule(subject=subjects)
    def replace_under_the_same_consent(self, subject: bytes) -> None:
        record = self.papers.get(subject)
        if record is not None and record.expires_at > self.clock.now():
            face = unit_vector(self.rng)
            self.store.enrol(captures(self.rng, face), consent=record, model=MODEL, subject=subject)
            self._note(subject, record, MODEL, face)

    @rule(holder=subjects, other=st.one_of(st.none(), subjects))
    def one_consent_for_two_people(self, holder: bytes, other: bytes | None) -> None:
        record = self.papers.get(holder)
        if record is not None and other != holder:
            self._refused(self._typed_anew(record), subject=other)

    @rule(which=st.integers(0, 10**6), subject=st.one_of(st.none(), subjects))
    def same_consent_again_after_withdrawal(self, which: int, subject: bytes | None) -> None:
        known = [r for r, since in self.spent.values() if self.clock.now() - since < timedelta(days=TOMBSTONE_DAYS)]
        if known:
            self._refused(self._typed_anew(known[which % len(known)]), subject=subject)

    @rule(target=former, subject=consumes(subjects))
    def withdraw(self, subject: bytes) -> bytes:
        receipt = self.store.erase(subject)
        assert receipt.subject == subject_digest(subject)
        self._forget(subject)
        return subject

    @rule(subject=former)
    def withdraw_again_or_return_under_the_old_id(self, subject: bytes) -> None:
        if self._has_tombstone(subject):
            assert self.store.erase(subject).subject == subject_digest(subject)
            self._refused(consent(self.clock.now()), subject=subject)

    @rule()
    def withdraw_for_nobody(self) -> None:
        try:
            self.store.erase(self.rng.bytes(16))
        except RefusedError:
            return
        raise AssertionError("nobody was erased")

    @rule(subject=subjects)
    def use(self, subject: bytes) -> None:
        self.store.matched(subject)
        if subject in self.used:
            self.used[subject] = self.clock.now().date()

    @rule(days=st.sampled_from([0, 0.2, 1, 7, 30, 59, 61, 200]))
    def let_time_pass(self, days: float) -> None:
        self.clock.advance(days * 86_400)
        receipts = self.store.sweep(self.clock.now())
        assert {r.subject for r in receipts} == {subject_digest(s) for s in self._overdue()}
        for subject in self._overdue():
            self._forget(subject)

    @rule(days=st.sampled_from([0, 5, 100]))
    def switch_off_and_on(self, days: int) -> None:
        self.store.close()
        self.clock.advance(days * 86_400)
        self.store = open_store(self.folder, self.clock, unused_days=UNUSED_DAYS)
        for subject in self._overdue():
            self._forget(subject)

    @rule()
    def renew(self) -> None:
        self.store.renew()

    @rule(target=former)
    def take_down(self) -> object:
        subjects = list(self.expires)
        assert len(self.store.erase_all()) == len(subjects)
        for subject in subjects:
            self._forget(subject)
        return multiple(*subjects)

    @invariant()
    def exactly_those_are_held_who_consented_and_did_not_withdraw(self) -> None:
        if hasattr(self, "store"):
            assert {h.subject for h in self.store.list()} == set(self.expires)
            for model in (MODEL, OTHER_MODEL):
                assert set(self.store.references(model).subjects) == {s for s, m in self.model.items() if m == model}

    @invariant()
    def only_they_match(self) -> None:
        if hasattr(self, "store"):
            references = self.store.references(MODEL)
            for subject, face in self.faces.items():
                found = compare(Embedding(face, MODEL), references)
                matches = found is not None and found.subject == subject and found.score > 0.8
                assert matches == (self.model.get(subject) == MODEL)

    @invariant()
    def no_byte_is_left_of_anybody_else(self) -> None:
        if hasattr(self, "store"):
            on_disk = b"".join(path.read_bytes() for path in self.folder.iterdir())
            assert not [s for s in self.gone if s in on_disk]
            assert sorted(path.name for path in self.folder.iterdir()) == [
                "gallery.db",
                "gallery.db.lock",
                "kek",
                "time.json",
            ]

    def _note(self, subject: bytes, record: ConsentRecord, model: str, face: np.ndarray) -> None:
        former = self.papers.get(subject)
        if former is not None and former.evidence_digest != record.evidence_digest:
            self.spent[former.evidence_digest] = (former, self.clock.now())
        self.papers[subject] = record
        self.expires[subject], self.used[subject] = record.expires_at, self.clock.now().date()
        self.model[subject], self.faces[subject] = model, face

    def _typed_anew(self, record: ConsentRecord) -> ConsentRecord:
        now = self.clock.now()
        return msgspec.structs.replace(record, given_at=now, expires_at=now + timedelta(days=30))

    def _forget(self, subject: bytes) -> None:
        record = self.papers.pop(subject, None)
        if record is not None:
            self.spent[record.evidence_digest] = (record, self.clock.now())
        for of in (self.expires, self.used, self.model):
            of.pop(subject, None)
        self.gone.setdefault(subject, self.clock.now())

    def _has_tombstone(self, subject: bytes) -> bool:
        return self.clock.now() - self.gone[subject] < timedelta(days=TOMBSTONE_DAYS)

    def _overdue(self) -> list[bytes]:
        now = self.clock.now()
        return [
            subject
            for subject, ends in self.expires.items()
            if ends <= now or (now.date() - self.used[subject]).days >= UNUSED_DAYS
        ]

    def _refused(self, record: object, **arguments: object) -> None:
        try:
            self.store.enrol(captures(self.rng), consent=record, model=MODEL, **arguments)
        except ConsentError:
            return
        raise AssertionError("enrolled without a valid consent")


GalleryLife.TestCase.settings = settings(
    max_examples=LONG_RUNS,
    stateful_step_count=50 if LONG_RUNS > 100 else 25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestConsentIsBinding = GalleryLife.TestCase
