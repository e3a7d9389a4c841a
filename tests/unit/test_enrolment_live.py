# SPDX-License-Identifier: Apache-2.0
"""An enrolment on a running unit: begun under a consent, fed by the pipeline, ended by commit, abort or time."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.audit.chain import read_entries
from agent.audit.log import AuditLog
from agent.camera.base import Frame, RgbPicture
from agent.clock import SimulatedClock
from agent.detect.track import Track
from agent.embed.records import Crop, Embedding
from agent.errors import CaptureRefusedError, ConsentError, RefusedError, StorageError
from agent.gallery.consent import ConsentRecord, Terms
from agent.gallery.store import GalleryStore
from agent.protocol.subject import SubjectId
from agent.unit.capturing import SESSION_NS
from agent.unit.enrolment import REPORT_NS, LiveEnrolment, Registrar
from tests.simulators.acted import ANYWHERE, Acted
from tests.simulators.auditor import audited
from tests.simulators.gallery_life import MODEL, PURPOSE, SITE, UNIT, captures, consent, open_store, unit_vector
from tests.simulators.heads import face
from tests.unit.test_gallery_enrol import picture
from tests.unit.test_match_policy import policy

GOOD = face(300, 300, 200)
TEXTURE = np.tile(np.asarray(Image.fromarray(picture()).resize((200, 200), Image.Resampling.BICUBIC)), (3, 3, 1))
PERSON = unit_vector(np.random.default_rng(3))


class Unit:
    """The enrolment of a unit with a real gallery and a real log; the embedder gives ``vectors`` in their order."""

    def __init__(self, folder: Path, log: type[AuditLog] = AuditLog) -> None:
        self.clock = SimulatedClock()
        self.rng = np.random.default_rng(5)
        self.gallery: GalleryStore = open_store(folder, self.clock)
        self.log_path = folder / "audit.log"
        self.audit = log(self.log_path, clock=self.clock, random=secrets.token_bytes)
        self.vectors: list[np.ndarray] = []
        self.given: list[Embedding] = []
        self.told: list[tuple[str, dict[str, Any] | None, tuple[str, str] | None]] = []
        self.registrar = Registrar(
            gallery=self.gallery,
            audit=self.audit,
            embedder=self,
            model=MODEL,
            policy=policy(),
            terms=Terms(SITE, UNIT, PURPOSE),
            notice_version="2026-1",
            clock=self.clock,
            random=secrets.token_bytes,
        )
        self.live = LiveEnrolment(
            self.registrar,
            clock=self.clock,
            tell=lambda *report: self.told.append(report),
            gate=ANYWHERE,
            act=Acted,
        )

    def embed(self, crop: Crop) -> Embedding:
        mirrored = len(self.given) % 2 == 1
        self.given.append(Embedding(self._shown if mirrored else self.vectors.pop(0).copy(), MODEL))
        self._shown = self.given[-1].vector.copy()
        return self.given[-1]

    def show(self, *faces: Any, seconds: float = 1.0) -> bool:
        """Let time pass and offer one frame; whether the enrolment took it."""
        self.clock.advance(seconds)
        lores = np.zeros((240, 320, 3), np.uint8)
        tracks = [Track(number, one, 0, self.clock.monotonic_ns()) for number, one in enumerate(faces)]
        return self.live.offer(Frame(0, self.clock.monotonic_ns(), lores, RgbPicture(TEXTURE)), tracks)

    def begin(self, name: str = "e1", **changes: Any) -> Any:
        return self.live.begin(name, consent(self.clock.now(), **changes))

    def stand(self, count: int, person: np.ndarray = PERSON) -> None:
        """Somebody stands as they should, for ``count`` captures."""
        self.vectors += captures(self.rng, person, count)
        for _ in range(count):
            self.show(GOOD)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    made = Unit(tmp_path)
    yield made
    made.audit.close()
    made.gallery.close()


def reason(error: pytest.ExceptionInfo[RefusedError]) -> str:
    return error.value.reason


def test_a_session_is_begun_followed_and_committed(unit: Unit) -> None:
    assert unit.begin() == {
        "enrolment": "e1",
        "state": "capturing",
        "captured": 0,
        "wanted": 5,
        "refusal": None,
        "advice": "",
        "seconds": 120,
    }
    unit.stand(5)
    answer = unit.live.commit("e1")
    (subject,) = unit.gallery.subjects()
    assert answer == {"subject": subject.hex(), "captures": 5}
    assert [data and (data["state"], data.get("captured")) for _, data, _ in unit.told] == [
        *(("capturing", n) for n in range(1, 5)),
        ("complete", 5),
        ("committed", None),
    ]
    given, enrolled_as = read_entries(unit.log_path)
    assert (given.kind, enrolled_as.kind) == ("consent_given", "enrolled")
    assert given.facts["notice_version"] == "2026-1"
    assert (enrolled_as.facts["model"], enrolled_as.facts["captures"]) == (MODEL, 5)
    assert not any(embedding.vector.any() for embedding in unit.given), "the captures are overwritten"


def test_reports_hold_counts_and_advice_and_no_biometric_value(unit: Unit) -> None:
    unit.begin()
    for shown in ([], [GOOD, face(900, 300, 60)], [face(300, 300, 100)], [face(300, 300, 200, yaw=35)]):
        unit.show(*shown)
    unit.stand(5)
    assert {data["refusal"] for _, data, _ in unit.told if data} == {"none", "two_faces", "small", "turned", None}
    for _, data, _ in unit.told:
        assert data is not None
        assert set(data) == {"enrolment", "state", "captured", "wanted", "refusal", "advice"}
        assert "." not in json.dumps({**data, "advice": ""}), "no number with a fraction"


def test_recognition_pauses_only_while_captures_are_taken(unit: Unit) -> None:
    assert not unit.live.capturing
    unit.begin()
    assert unit.live.capturing
    unit.stand(5)
    assert not unit.live.capturing
    unit.live.commit("e1")
    assert not unit.live.capturing


def test_no_frame_is_looked_at_without_a_session_or_after_its_captures(unit: Unit) -> None:
    unit.show(GOOD)
    unit.begin()
    unit.stand(5)
    unit.show(GOOD)
    assert len(unit.given) == 10, "each of the five captures and its mirror image"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"site": "other"}, "consent_wrong_site"),
        ({"units": ("door-9",)}, "consent_wrong_unit"),
        ({"purpose": "to count how often people smoke outside"}, "consent_wrong_purpose"),
        ({"notice_version": "2025-9"}, "consent_wrong_notice"),
        ({"age_class": "under_16"}, "consent_no_guardian"),
        ({"days": 1096}, "consent_too_long"),
        ({"days": -1}, "consent_bad_times"),
    ],
)
def test_nobody_is_enrolled_without_a_consent_that_holds_here(unit: Unit, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ConsentError) as refusal:
        unit.begin(**changes)
    assert reason(refusal) == code
    unit.stand(1)
    assert unit.given == []


@pytest.mark.parametrize(("shift_days", "code"), [(400, "consent_expired"), (-400, "consent_in_future")])
def test_consent_of_another_time_is_refused(unit: Unit, shift_days: int, code: str) -> None:
    given = consent(unit.clock.now() - timedelta(days=shift_days))
    with pytest.raises(ConsentError) as refusal:
        unit.live.begin("e1", given)
    assert reason(refusal) == code


def test_consent_that_expires_during_the_session_makes_no_reference(unit: Unit) -> None:
    unit.begin(days=3 / 86_400)
    unit.stand(4)
    with pytest.raises(ConsentError) as refusal:
        unit.live.commit("e1")
    assert reason(refusal) == "consent_expired"
    assert unit.gallery.subjects() == ()
    assert unit.told[-1][2] is not None
    assert unit.told[-1][2][0] == "not_kept"
    assert audited(unit.audit).personal == 0


def test_one_session_at_a_time(unit: Unit) -> None:
    unit.begin()
    with pytest.raises(RefusedError) as refusal:
        unit.begin("e2")
    assert reason(refusal) == "enrolment_open"


@pytest.mark.parametrize("act", ["commit", "abort"])
def test_only_the_session_in_hand_is_ended(unit: Unit, act: str) -> None:
    for begun in (False, True):
        if begun:
            unit.begin()
        with pytest.raises(RefusedError) as refusal:
            getattr(unit.live, act)("another")
        assert reason(refusal) == "no_enrolment"
    assert unit.live.capturing


def test_too_early_a_commit_lets_the_session_go_on(unit: Unit) -> None:
    unit.begin()
    unit.stand(2)
    with pytest.raises(CaptureRefusedError) as refusal:
        unit.live.commit("e1")
    assert reason(refusal) == "too_few_captures"
    unit.stand(1)
    assert unit.live.commit("e1")["captures"] == 3


def test_who_is_enrolled_already_is_refused_and_may_be_renewed(unit: Unit) -> None:
    person = unit_vector(np.random.default_rng(8))
    unit.begin()
    unit.stand(5, person)
    unit.live.commit("e1")
    (subject,) = unit.gallery.subjects()
    unit.begin("e2")
    unit.stand(5, person)
    with pytest.raises(CaptureRefusedError) as refusal:
        unit.live.commit("e2")
    assert reason(refusal) == "already_enrolled"
    assert unit.told[-1][2] is not None
    assert unit.told[-1][2][0] == "already_enrolled"
    unit.live.begin("e3", consent(unit.clock.now()), subject)
    unit.stand(5, person)
    assert unit.live.commit("e3")["subject"] == subject.hex()
    assert unit.gallery.subjects() == (subject,)


@pytest.mark.parametrize("how", ["abort", "time by the clock", "time by the camera", "the camera is lost"])
def test_a_session_that_ends_without_commit_leaves_nothing(unit: Unit, how: str) -> None:
    unit.begin()
    unit.stand(4)
    if how == "abort":
        unit.live.abort("e1")
    elif how == "the camera is lost":
        unit.live.interrupt("camera_lost", "begin again once it is back")
    elif how == "time by the clock":
        unit.clock.advance(SESSION_NS / 1e9)
        unit.live.expire()
    else:
        unit.show(GOOD, seconds=SESSION_NS / 1e9 + 1)
    codes = {"abort": "aborted", "the camera is lost": "camera_lost"}
    assert unit.told[-1][2] is not None
    assert unit.told[-1][2][0] == codes.get(how, "timed_out")
    assert not unit.live.capturing
    assert not any(embedding.vector.any() for embedding in unit.given)
    with pytest.raises(RefusedError):
        unit.live.commit("e1")
    assert unit.gallery.subjects() == ()
    assert unit.begin("e2")["captured"] == 0


def test_advice_is_told_twice_a_second_at_most_and_captures_at_once(unit: Unit) -> None:
    unit.begin()
    for number in range(40):
        unit.show(*([] if number % 2 else [face(300, 300, 100)]), seconds=0.05)
    assert len(unit.told) <= 2 * 1e9 / REPORT_NS
    before = len(unit.told)
    unit.vectors += captures(np.random.default_rng(3))
    unit.show(GOOD, seconds=0.01)
    assert len(unit.told) == before + 1


def enrolled(
    unit: Unit, given: ConsentRecord, subject: SubjectId | None = None, person: np.ndarray | None = None
) -> SubjectId:
    unit.live.begin("enrolled", given, subject)
    unit.stand(5, unit_vector(np.random.default_rng(8)) if person is None else person)
    return SubjectId(bytes.fromhex(unit.live.commit("enrolled")["subject"]))


def everything_in(unit: Unit) -> bytes:
    return b"".join(path.read_bytes() for path in unit.log_path.parent.rglob("*") if path.is_file())


def withdraw(unit: Unit, subject: SubjectId) -> None:
    unit.gallery.erase(subject)
    unit.audit.forget(subject)


@pytest.mark.parametrize("old_id", [True, False])
def test_a_refused_return_of_an_erased_person_leaves_nothing(unit: Unit, old_id: bool) -> None:
    given = consent(unit.clock.now())
    subject = enrolled(unit, given)
    withdraw(unit, subject)
    before = unit.audit.head()
    record = consent(unit.clock.now()) if old_id else given
    for refused in (
        lambda: unit.live.begin("e1", record, subject if old_id else None),
        lambda: unit.registrar.keep(captures(unit.rng), record, subject if old_id else None),
    ):
        with pytest.raises(ConsentError) as refusal:
            refused()
        assert reason(refusal) == ("subject_erased" if old_id else "consent_withdrawn")
    assert unit.audit.head() == before, "no consent stands in the log for nobody"
    assert subject.hex().encode() not in everything_in(unit)
    assert audited(unit.audit).personal == 0


@pytest.mark.parametrize("when", ["before begin", "before commit"])
def test_a_withdrawal_that_comes_between_ends_a_renewal_and_leaves_nothing(unit: Unit, when: str) -> None:
    subject = enrolled(unit, consent(unit.clock.now()))
    if when == "before commit":
        unit.live.begin("e1", consent(unit.clock.now()), subject)
        unit.stand(5, unit_vector(np.random.default_rng(9)))
    withdraw(unit, subject)
    before = unit.audit.head()
    with pytest.raises(ConsentError) as refusal:
        unit.live.commit("e1") if when == "before commit" else unit.live.begin("e1", consent(unit.clock.now()), subject)
    assert reason(refusal) == "subject_erased"
    assert unit.audit.head() == before
    assert subject.hex().encode() not in everything_in(unit)


class ErasesMeanwhile(AuditLog):
    """A log during one of whose entries, ``at``, the person is erased by another thread."""

    gallery: GalleryStore
    at = ""

    def append(self, kind: Any, *arguments: Any, subject: SubjectId | None = None, **rest: Any) -> Any:
        head = super().append(kind, *arguments, subject=subject, **rest)
        if kind == self.at and subject is not None and subject in self.gallery:
            self.gallery.erase(subject)
        return head


@pytest.mark.parametrize("at", ["consent_given", "enrolled"])
def test_an_erasure_during_the_commit_leaves_no_personal_part(tmp_path: Path, at: str) -> None:
    unit = Unit(tmp_path, ErasesMeanwhile)
    assert isinstance(unit.audit, ErasesMeanwhile)
    unit.audit.gallery = unit.gallery
    subject = enrolled(unit, consent(unit.clock.now()), person=PERSON)
    unit.audit.at = at
    with pytest.raises(ConsentError) if at == "consent_given" else nullcontext():
        unit.registrar.keep(captures(unit.rng, PERSON), consent(unit.clock.now()), subject)
    assert subject not in unit.gallery
    assert subject.hex().encode() not in everything_in(unit)
    unit.audit.close()
    unit.gallery.close()


def test_until_when_a_consent_lasts_is_erased_with_the_person(unit: Unit) -> None:
    given = consent(unit.clock.now(), days=77)
    subject = enrolled(unit, given)
    ends = given.expires_at.isoformat().encode()
    personal = b"".join(path.read_bytes() for path in (unit.log_path.parent / "audit.log.personal").iterdir())
    assert b'"evidence":"%s"' % given.evidence_digest.encode() in personal
    assert b'"expires_at":"%s"' % ends in personal
    assert ends not in unit.log_path.read_bytes()
    withdraw(unit, subject)
    assert ends not in everything_in(unit)


class FullDisk(AuditLog):
    """A log on a disk that has no room left."""

    def append(self, *_: Any, **__: Any) -> Any:
        raise StorageError("no space left: free space")


def test_where_the_log_cannot_be_written_nobody_is_enrolled(tmp_path: Path) -> None:
    unit = Unit(tmp_path, FullDisk)
    unit.begin()
    unit.stand(5)
    with pytest.raises(StorageError):
        unit.live.commit("e1")
    assert unit.gallery.subjects() == ()
    assert not any(embedding.vector.any() for embedding in unit.given)
    unit.audit.close()
    unit.gallery.close()
