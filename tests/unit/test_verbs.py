# SPDX-License-Identifier: Apache-2.0
"""What a unit does when a signed command asks, on a real gallery and a real outbox."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.clock import SimulatedClock
from agent.errors import RefusedError
from agent.gallery.consent import ConsentRecord
from agent.gallery.erase import RECEIPT_TYPE
from agent.gallery.keyring import FileKeyring
from agent.gallery.store import GalleryStore
from agent.keys import UnitKey
from agent.outbox.event import make_unit
from agent.outbox.queue import Outbox
from agent.verbs import Parts, make_handlers

PURPOSE = "To open a door for people who asked for it, in a test."
MODEL = "sha256:" + "1" * 64
DIGEST = "sha256:" + "2" * 64


class Unit:
    """A gallery with one subject, an outbox with one event about them, and the handlers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
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
        consent = ConsentRecord(
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
        self.outbox.append(make_unit("started", now=now, clock="synced"), owner=self.subject)
        self.paused = threading.Event()
        self.receipts: list[Any] = []
        self.handlers = make_handlers(
            Parts(
                gallery=self.gallery,
                outbox=self.outbox,
                on_receipt=self.receipts.append,
                health=lambda: b'{"fps_milli":1}',
                facts={"profile": "demo"},
                self_test=lambda: {"models": "ok"},
                forget_erased=self.forget,
                paused=self.paused,
            )
        )

    def forget(self) -> None:
        for subject in self.gallery.take_erased():
            self.outbox.erase(subject)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    with ExitStack() as stack:
        yield Unit(tmp_path, stack)


def test_revoked_subject_matches_nobody_and_leaves_no_unsent_event(unit: Unit) -> None:
    answer = unit.handlers["subject/revoke"]({"subject": unit.subject.hex()})
    assert unit.gallery.references(MODEL).subjects == ()
    assert all(row.kind == "unit" and b"loss" in row.payload for row in unit.outbox.pending(10))
    assert answer["receipt"]["reason"] == "withdrawn"
    assert len(unit.receipts) == 1


@pytest.mark.parametrize("subject", [None, 7, "", "zz" * 16, "00" * 15, "00" * 16])
def test_subject_that_is_none_is_refused_and_nothing_changes(unit: Unit, subject: object) -> None:
    with pytest.raises(RefusedError):
        unit.handlers["subject/revoke"]({"subject": subject})
    assert unit.gallery.references(MODEL).subjects == (unit.subject,)
    assert unit.outbox.depth() == 1


def test_status_tells_ids_and_no_biometric_value(unit: Unit) -> None:
    answer = unit.handlers["gallery/status"]({})
    assert answer == {"enrolled": 1, "damaged": 0, "subjects": [unit.subject.hex()]}


def test_recognition_pauses_and_resumes(unit: Unit) -> None:
    assert unit.handlers["recognition/pause"]({}) == {"recognition": "paused"}
    assert unit.paused.is_set()
    assert unit.handlers["recognition/resume"]({}) == {"recognition": "running"}
    assert not unit.paused.is_set()


def test_the_others_answer_what_they_are_asked(unit: Unit) -> None:
    assert unit.handlers["outbox/status"]({})["depth"] == 1
    assert unit.handlers["config/get"]({}) == {"profile": "demo"}
    assert unit.handlers["selftest"]({}) == {"models": "ok"}
    assert unit.handlers["health"]({}) == {"fps_milli": 1}
