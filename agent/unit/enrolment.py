# SPDX-License-Identifier: Apache-2.0
"""Enrolment at this unit: one live session at a time, begun under a consent, ended by commit, abort or time.

``Registrar`` opens sessions and keeps what they yield; the command line uses it directly. ``LiveEnrolment`` holds a
session on the running unit: commands begin and end it on the uplink's thread, the pipeline offers frames on its own.
The person acts first (``spot_session``): a command alone enrols nobody. While it takes captures the camera is its alone
and recognition pauses, so a frame serves one purpose. What it reports holds counts and advice, never a biometric value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from agent.audit.log import AuditLog
from agent.camera.base import Frame
from agent.clock import Clock
from agent.detect.face import Face
from agent.detect.gate import Gate
from agent.detect.track import Track
from agent.door.on_the_spot import OnTheSpot
from agent.embed.align import align
from agent.embed.records import Crop
from agent.errors import CaptureRefusedError, PosternError, RefusedError, StorageError
from agent.gallery.consent import ConsentRecord, Terms, check_notice
from agent.gallery.store import GalleryStore
from agent.gallery.template import MIN_CAPTURES, Vector
from agent.match.policy import Policy
from agent.protocol.subject import SUBJECT_BYTES, SubjectId
from agent.unit.capturing import ADVICE, SESSION_NS, Embeds, EnrolmentSession, Progress, Refusal
from agent.unit.replacing import check_captures, check_word
from agent.unit.spot_session import SpotSession

REPORT_NS = 500_000_000  # between reports of one count: as fast as a person reacts to advice


class Registrar(msgspec.Struct, frozen=True):
    """Opens sessions for this unit, and makes references of what they yield, with their entries in the audit log."""

    gallery: GalleryStore
    audit: AuditLog
    embedder: Embeds
    model: str
    policy: Policy
    terms: Terms
    notice_version: str
    clock: Clock
    random: Callable[[int], bytes]
    align: Callable[[Frame, Face], Crop] = align
    doubt: Callable[[], str | None] = lambda: None  # why nobody may be enrolled now: files were put back

    def open(self, consent: ConsentRecord, subject: SubjectId | None) -> EnrolmentSession:
        """Begin a session; raises what ``GalleryStore.admit`` raises when ``consent`` does not hold here and now."""
        if (doubt := self.doubt()) is not None:
            raise RefusedError(doubt, reason="files_in_doubt")
        check_notice(consent, self.notice_version)
        self.gallery.admit(consent, subject)
        return EnrolmentSession(
            self.embedder,
            consent,
            references=self.gallery.references(self.model, self.policy.formerly),
            policy=self.policy,
            terms=self.terms,
            now=self.clock.now(),
            align=self.align,
            subject=subject,
        )

    def check_word(self, consent: ConsentRecord, subject: SubjectId | None, replace: SubjectId | None) -> None:
        """Refuse to replace a reference of another model without a new consent and the ``replace`` of an operator."""
        check_word(self.gallery, self.model, consent, subject, replace=replace)

    def keep(
        self,
        vectors: Sequence[Vector],
        consent: ConsentRecord,
        subject: SubjectId | None,
        *,
        replace: SubjectId | None = None,
    ) -> SubjectId:
        """Store the reference, overwrite ``vectors``, and return the subject's id.

        A reference of ``subject`` is replaced by captures that match it alone; one of another model where ``replace``
        names the subject once more (``agent.unit.replacing``).

        The gallery is asked first, so that what it refuses leaves no entry. Then the consent stands in the log before
        the reference exists: where the log cannot be written, nobody is enrolled. Whoever the gallery does not hold in
        the end, because the disk failed or an erasure came between, has no personal part; one that a power cut leaves
        is destroyed by the next start. Raises what ``GalleryStore.enrol`` and ``replacing`` raise: nothing is kept.
        """
        chosen = subject or SubjectId(self.random(SUBJECT_BYTES))
        personal = {"evidence": consent.evidence_digest, "expires_at": consent.expires_at.isoformat()}
        facts = {"notice_version": consent.notice_version}
        try:
            self.gallery.admit(consent, subject)
            self.check_word(consent, subject, replace)
            check_captures(self.gallery, self.policy, vectors, subject)
            self.audit.append("consent_given", facts, subject=chosen, personal=personal)
            self.gallery.enrol(vectors, consent=consent, model=self.model, subject=chosen)
            with suppress(StorageError):  # the reference stands, and the log says under which consent
                self.audit.append("enrolled", {"model": self.model, "captures": len(vectors)}, subject=chosen)
        finally:
            for vector in vectors:
                vector.fill(0)
            if chosen not in self.gallery:
                with suppress(StorageError):
                    self.audit.forget(chosen)
        return chosen


class _Open(msgspec.Struct):
    """The session in hand."""

    name: str
    spot: SpotSession
    consent: ConsentRecord
    subject: SubjectId | None
    ends_ns: int
    captured: int = 0
    told: Progress | None = None
    told_ns: int = 0
    complete: bool = False


class _Report(msgspec.Struct, frozen=True):
    """What was told last, and of which session."""

    name: str
    data: dict[str, Any] | None
    end: tuple[str, str] | None


class LiveEnrolment:
    """See the module. ``tell`` takes a session's name and what to report about it, and must not block.

    A report is either data (``state``: ``capturing``, ``complete`` or ``committed``) or a code and a sentence that say
    why the session ended without a reference.
    """

    def __init__(
        self,
        registrar: Registrar,
        *,
        clock: Clock,
        tell: Callable[[str, dict[str, Any] | None, tuple[str, str] | None], None],
        gate: Gate,
        act: Callable[[], OnTheSpot],
    ) -> None:
        self._registrar, self._clock = registrar, clock
        self._hear, self._last = tell, _Report("", None, None)
        self._gate, self._act = gate, act
        self._lock = threading.Lock()
        self._open: _Open | None = None

    @property
    def capturing(self) -> bool:
        """Whether the session needs the camera; recognition pauses meanwhile."""
        held = self._open
        return held is not None and not held.complete

    @property
    def asked(self) -> Refusal | None:
        """What the person is told at this moment, if anything."""
        held = self._open
        return held.told.refusal if held is not None and held.told is not None and not held.complete else None

    def begin(self, name: str, consent: ConsentRecord, subject: SubjectId | None = None) -> Mapping[str, Any]:
        """Open a session called ``name``; what there is to say about it now.

        Raises RefusedError (``enrolment_open``) while there is one, and ConsentError.
        """
        self.expire()
        if self._open is not None:
            raise RefusedError(
                "another enrolment is under way: commit or abort it, or let its time pass", reason="enrolment_open"
            )
        session = self._registrar.open(consent, subject)
        with self._lock:
            spot = SpotSession(session, self._act(), self._gate)
            self._open = _Open(name, spot, consent, subject, self._clock.monotonic_ns() + SESSION_NS)
            return {
                **_state(self._open, "capturing", Progress(0, session.wanted, None)),
                "seconds": SESSION_NS // 10**9,
            }

    def last(self, name: str) -> tuple[dict[str, Any] | None, tuple[str, str] | None] | None:
        """What was told last of the session ``name``; None when nothing was, or another one was told of since."""
        last = self._last
        return (last.data, last.end) if last.name == name else None

    def press(self, now_ns: int) -> None:
        """Take a press of the button by which people enrol; runs on the pipeline's thread."""
        with self._lock:
            if self._open is not None:
                self._open.spot.press(now_ns)

    def offer(self, frame: Frame, tracks: Sequence[Track]) -> bool:
        """Let the session, if one takes captures, look at ``frame``; whether it did, for a frame serves one purpose.

        Runs on the thread that owns the embedder.
        """
        if not self.capturing:
            return False
        with self._lock:
            held = self._open
            if held is None or held.complete:
                return False
            progress = held.spot.offer(frame, tracks)
            held.captured, held.complete = progress.captured, progress.complete
            if progress.refusal == "timed_out":
                self._end("timed_out", ADVICE["timed_out"])
            else:
                self._report(held, progress)
        return True

    def commit(self, name: str, *, replace: SubjectId | None = None) -> Mapping[str, Any]:
        """Make the reference; its subject.

        ``replace`` names the subject once more where its reference is of another model. Raises RefusedError:
        ``no_enrolment``, ``too_few_captures``, ``replace_unconfirmed`` (the session goes on), ``already_enrolled``, and
        what ``Registrar.keep`` raises (the session is over, nothing was kept).
        """
        self.expire()
        with self._lock:
            held = self._named(name)
            if held.captured < MIN_CAPTURES:
                raise CaptureRefusedError(
                    f"{held.captured} captures were taken, {MIN_CAPTURES} are needed: follow the advice",
                    reason="too_few_captures",
                )
            self._registrar.check_word(held.consent, held.subject, replace)
            try:
                vectors = held.spot.session.finish()
            except CaptureRefusedError as error:
                self._end(error.reason, str(error))
                raise
            self._open = None
        try:
            subject = self._registrar.keep(vectors, held.consent, held.subject, replace=replace)
        except PosternError as error:
            self._tell(name, None, ("not_kept", str(error)))
            raise
        self._tell(name, {"enrolment": name, "state": "committed"}, None)
        return {"subject": subject.hex(), "captures": held.captured}

    def abort(self, name: str) -> Mapping[str, Any]:
        """End the session and overwrite what it holds; RefusedError (``no_enrolment``) when there is none."""
        with self._lock:
            self._named(name)
            self._end("aborted", "the enrolment was aborted, nothing was stored")
        return {"enrolment": name}

    def interrupt(self, reason: str, sentence: str) -> None:
        """End a session, if there is one, because the unit cannot go on with it."""
        with self._lock:
            if self._open is not None:
                self._end(reason, sentence)

    def forget_subject(self, subject: SubjectId) -> None:
        """End a session that was to renew the reference of somebody who is erased."""
        with self._lock:
            if self._open is not None and self._open.subject == subject:
                self._end("subject_erased", "the person was erased meanwhile; nothing was stored")

    def expire(self) -> None:
        """End a session whose time is over; to be called now and then, also while no frame comes."""
        with self._lock:
            if self._open is not None and self._clock.monotonic_ns() > self._open.ends_ns:
                self._end("timed_out", ADVICE["timed_out"])

    def _tell(self, name: str, data: dict[str, Any] | None, end: tuple[str, str] | None) -> None:
        self._last = _Report(name, data, end)
        self._hear(name, data, end)

    def _named(self, name: str) -> _Open:
        if self._open is None or self._open.name != name:
            raise RefusedError(
                "there is no such enrolment: begin one, and name it by the begin's transaction", reason="no_enrolment"
            )
        return self._open

    def _end(self, reason: str, sentence: str) -> None:
        held, self._open = self._open, None
        if held is not None:
            held.spot.session.cancel()
            self._tell(held.name, None, (reason, sentence))

    def _report(self, held: _Open, progress: Progress) -> None:
        now_ns = self._clock.monotonic_ns()
        news = held.told is None or progress.captured != held.told.captured
        if progress == held.told or not (news or now_ns - held.told_ns >= REPORT_NS):
            return
        held.told, held.told_ns = progress, now_ns
        self._tell(held.name, _state(held, "complete" if progress.complete else "capturing", progress), None)


def _state(held: _Open, state: str, progress: Progress) -> dict[str, Any]:
    return {
        "enrolment": held.name,
        "state": state,
        "captured": progress.captured,
        "wanted": progress.wanted,
        "refusal": progress.refusal,
        "advice": progress.advice,
    }
