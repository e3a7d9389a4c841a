# SPDX-License-Identifier: Apache-2.0
"""What a unit does when a signed command asks, on a real gallery and a real outbox."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.audit.chain import read_entries
from agent.audit.log import AuditLog
from agent.clock import SimulatedClock
from agent.embed.records import Crop, Embedding
from agent.errors import RefusedError
from agent.gallery.consent import ConsentRecord
from agent.gallery.keyring import FileKeyring
from agent.gallery.store import GalleryStore
from agent.keys import UnitKey
from agent.outbox.draft import make_unit
from agent.outbox.queue import Outbox
from agent.protocol.command import Command
from agent.protocol.receipt import RECEIPT_TYPE
from agent.unit.enrolment import LiveEnrolment, Registrar
from agent.unit.forget import note, owner_of, pass_on
from agent.unit.verbs import Parts, make_handlers
from tests.unit.test_match_policy import policy

PURPOSE = "To open a door for people who asked for it, in a test."
MODEL = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64


class NoEmbedder:
    """No frame comes here."""

    def embed(self, crop: Crop) -> Embedding:
        raise AssertionError


class Unit:
    """A gallery with one subject, an outbox with one event about them, and the handlers."""

    def __init__(self, folder: Path, stack: ExitStack, measured_to: int = 100) -> None:
        self.measured_to = measured_to
        clock, key = SimulatedClock(), UnitKey.generate()
        self.gallery = stack.enter_context(
            GalleryStore(
                folder / "gallery.db",
                keyring=FileKeyring(folder / "kek", random=secrets.token_bytes),
                site="hq",
                unit="door-1",
                purpose=PURPOSE,
                clock=clock,
                sign=lambda payload: key.sign_detached(payload, typ=RECEIPT_TYPE),
            )
        )
        self.outbox = stack.enter_context(
            Outbox(folder / "outbox.db", signer=key, source="/postern/hq/door-1", clock=clock)
        )
        now = clock.now()
        self.consent = consent = ConsentRecord(
            purpose=PURPOSE,
            site="hq",
            units=("door-1",),
            notice_version="1",
            notice_digest=DIGEST,
            evidence_digest=DIGEST,
            given_at=now,
            expires_at=now + timedelta(days=30),
            age_class="of_age",
        )
        base = np.random.default_rng(1).normal(size=128)
        vectors = [np.float32(base + np.random.default_rng(n).normal(0, 0.1, 128)) for n in range(3)]
        vectors = [vector / np.linalg.norm(vector) for vector in vectors]
        self.subject = self.gallery.enrol(vectors, consent=consent, model=MODEL)
        self.outbox.append(make_unit("started", now=now, clock="synced"), owner=owner_of(self.subject))
        self.paused = threading.Event()
        self.log = folder / "audit.log"
        self.audit = AuditLog(self.log, clock=clock, random=secrets.token_bytes)
        stack.callback(self.audit.close)
        self.enrolment = LiveEnrolment(
            Registrar(
                gallery=self.gallery,
                audit=self.audit,
                embedder=NoEmbedder(),
                model=MODEL,
                policy=policy(),
                site="hq",
                unit="door-1",
                purpose=PURPOSE,
                notice_version="1",
                notice=None,
                clock=clock,
                random=secrets.token_bytes,
            ),
            clock=clock,
            tell=lambda *_: None,
        )
        self.handlers = make_handlers(
            Parts(
                gallery=self.gallery,
                outbox=self.outbox,
                measured_to=self.measured_to,
                health=lambda: b'{"fps_milli":1}',
                facts={"profile": "demo"},
                self_test=lambda: {"models": "ok"},
                forget_erased=self.forget,
                paused=self.paused,
                enrolment=self.enrolment,
                rotate=lambda args: {"rotated": sorted(args)},
            )
        )

    def do(self, verb: str, args: dict[str, Any] | None = None) -> Mapping[str, Any]:
        """What the handler of ``verb`` answers to a command that was verified."""
        command = Command(
            site="hq",
            unit="door-1",
            verb=verb,
            cmd_seq=1,
            issued_at=0,
            expires_at=60,
            transaction="t-1",
            args=args or {},
        )
        return self.handlers[verb](command)

    def forget(self) -> None:
        pass_on(self.gallery, self.outbox, self.audit, lambda one: note(self.audit, one.receipt))


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    with ExitStack() as stack:
        yield Unit(tmp_path, stack)


def test_revoked_subject_matches_nobody_and_leaves_no_unsent_event(unit: Unit) -> None:
    answer = unit.do("subject/revoke", {"subject": unit.subject.hex()})
    assert unit.gallery.references(MODEL).subjects == ()
    assert all(row.kind == "unit" and b"loss" in row.payload for row in unit.outbox.pending(10))
    assert answer["receipt"]["reason"] == "withdrawn"


def test_a_repeated_withdrawal_gets_its_receipt_again_and_is_noted_once(unit: Unit) -> None:
    first = unit.do("subject/revoke", {"subject": unit.subject.hex()})
    assert [entry.kind for entry in read_entries(unit.log)] == ["consent_withdrawn", "erased"]
    for _ in range(3):
        again = unit.do("subject/revoke", {"subject": unit.subject.hex()})
        assert {**again["receipt"], "signature": ""} == {**first["receipt"], "signature": ""}
    assert [entry.kind for entry in read_entries(unit.log)] == ["consent_withdrawn", "erased"]


@pytest.mark.parametrize("subject", [None, 7, "", "zz" * 16, "00" * 15, "00" * 16])
def test_subject_that_is_none_is_refused_and_nothing_changes(unit: Unit, subject: object) -> None:
    with pytest.raises(RefusedError):
        unit.do("subject/revoke", {"subject": subject})
    assert unit.gallery.references(MODEL).subjects == (unit.subject,)
    assert unit.outbox.depth() == 1


def test_status_tells_ids_and_no_biometric_value(unit: Unit) -> None:
    answer = unit.do("gallery/status", {})
    counts = {"enrolled": 1, "damaged": 0, "measured_to": 100, "measured": True}
    assert answer == {**counts, "subjects": [unit.subject.hex()]}


def test_status_says_when_the_gallery_is_larger_than_the_policy_was_measured_for(tmp_path: Path) -> None:
    with ExitStack() as stack:
        assert Unit(tmp_path, stack, measured_to=0).do("gallery/status", {})["measured"] is False


def test_recognition_pauses_and_resumes(unit: Unit) -> None:
    assert unit.do("recognition/pause", {}) == {"recognition": "paused"}
    assert unit.paused.is_set()
    assert unit.do("recognition/resume", {}) == {"recognition": "running"}
    assert not unit.paused.is_set()


def test_the_others_answer_what_they_are_asked(unit: Unit) -> None:
    assert unit.do("outbox/status", {})["depth"] == 1
    assert unit.do("config/get", {}) == {"profile": "demo"}
    assert unit.do("selftest", {}) == {"models": "ok"}
    assert unit.do("health", {}) == {"fps_milli": 1}


def test_enrolment_is_begun_with_a_consent_and_named_by_its_transaction(unit: Unit) -> None:
    consent = msgspec.to_builtins(unit.consent)
    another = {**consent, "evidence_digest": "sha256:" + "3" * 64}
    assert unit.do("enrol/begin", {"consent": another})["enrolment"] == "t-1"
    assert unit.do("enrol/abort", {"enrolment": "t-1"}) == {"enrolment": "t-1"}
    unit.do("enrol/begin", {"consent": consent, "subject": unit.subject.hex()})
    with pytest.raises(RefusedError) as refusal:
        unit.do("enrol/commit", {"enrolment": "t-1"})
    assert refusal.value.reason == "too_few_captures"


@pytest.mark.parametrize(
    ("verb", "args", "code"),
    [
        ("enrol/begin", {}, "consent_missing"),
        ("enrol/begin", {"consent": None}, "consent_malformed"),
        ("enrol/begin", {"consent": "yes"}, "consent_malformed"),
        ("enrol/begin", {"consent": {"purpose": PURPOSE}}, "consent_malformed"),
        ("enrol/begin", {"consent": {"x" * 5000: 1}}, "consent_malformed"),
        ("enrol/begin", {"consent": "x" * 20_000}, "consent_malformed"),
        ("enrol/commit", {}, "bad_args"),
        ("enrol/commit", {"enrolment": 1}, "bad_args"),
        ("enrol/commit", {"enrolment": "t-1", "subject": "00"}, "bad_args"),
        ("enrol/commit", {"enrolment": "t-1"}, "no_enrolment"),
        ("enrol/abort", {"enrolment": "t-1"}, "no_enrolment"),
        ("subject/revoke", {"subject": "00" * 16}, "unknown_subject"),
        ("subject/revoke", {"subject": "00"}, "bad_subject"),
    ],
)
def test_each_refusal_has_its_own_code(unit: Unit, verb: str, args: dict[str, Any], code: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        unit.do(verb, args)
    assert refusal.value.reason == code
    assert len(str(refusal.value)) < 500
    assert unit.gallery.subjects() == (unit.subject,)


@pytest.mark.parametrize("extra", [{"photo": "x"}, {"subject": "00"}, {"subject": None}])
def test_an_enrolment_takes_nothing_but_consent_and_subject(unit: Unit, extra: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        unit.do("enrol/begin", {"consent": msgspec.to_builtins(unit.consent), **extra})
    assert not unit.enrolment.capturing


def test_rotation_gets_what_was_asked(unit: Unit) -> None:
    assert unit.do("key/rotate", {"references": "renew"}) == {"rotated": ["references"]}
