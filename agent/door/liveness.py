# SPDX-License-Identifier: Apache-2.0
"""Whether a named face is alive, for each track: ``passed``, ``failed`` or ``not_checked``, and who may be announced.

``CheckedLiveness`` withholds every match until the face's own challenge passed (``agent.door.challenge``) and every
other part that is required (``agent.door.evidence``) was satisfied meanwhile. Those can only add a refusal, which
nobody can tell from another. Whatever else happens is not a pass: a time-out, a track that was lost or whose crops
contradict each other, a frame in which the second look sees no face, a pause of recognition, an error.

Only a face that was named is challenged, one at a time: others wait. A subject whose challenge failed waits before the
next one, longer each time, so that a film has few guesses. Of somebody who was named by nobody nothing is kept here,
and what is kept of a track dies with it; a subject's failures are kept in memory alone, until it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from agent.camera.base import Frame
from agent.door.challenge import Challenge, Look, Prompt, advance, begin, failed, unseen
from agent.door.evidence import Looks, Part
from agent.match.records import Liveness
from agent.protocol.subject import SubjectId

Angles = tuple[float, float]  # yaw and pitch of the head, measured degrees

# 2 s after a subject's first failure, doubled each time: a film that guesses one order in 14 needs half an hour or so.
FIRST_REST_NS, LONGEST_REST_NS = 2_000_000_000, 128_000_000_000
MAX_FAILURES = 1024  # subjects whose failures are remembered; the oldest is dropped for another


class LivenessCheck(Protocol):
    """What the pipeline asks of liveness."""

    @property
    def watched(self) -> int | None:
        """The track whose head's angles are needed in each frame, if there is one."""
        ...

    def vouch(self, track_id: int, subject: SubjectId) -> Liveness:
        """How it stands with this track, if it is this subject's; ``failed`` where it must not be announced."""
        ...

    def see(self, frame: Frame, box: Sequence[float]) -> None:
        """Look at the watched face, in pixels of the main picture, if this is a moment to; ``look`` comes after it."""
        ...

    def look(self, named: Mapping[int, SubjectId], angles: Angles | None, timestamp_ns: int) -> None:
        """Take one frame: the tracks that were named in it, and the angles of the watched face if it was seen."""
        ...

    def forget(self, track_ids: Iterable[int]) -> None:
        """These tracks died, or are not who they were."""
        ...

    def forget_all(self) -> None:
        """No track is who it was."""
        ...

    def forget_subject(self, subject: SubjectId) -> None:
        """The subject was erased."""
        ...


class UncheckedLiveness:
    """Liveness is off: everybody who is named may be announced, as not checked."""

    watched = None

    def vouch(self, track_id: int, subject: SubjectId) -> Liveness:  # noqa: ARG002 - the same for everybody
        return "not_checked"

    def see(self, frame: Frame, box: Sequence[float]) -> None:
        """Nothing is looked at."""

    def look(self, named: Mapping[int, SubjectId], angles: Angles | None, timestamp_ns: int) -> None:
        """Nothing is looked at."""

    def forget(self, track_ids: Iterable[int]) -> None:
        """Nothing is kept."""

    def forget_all(self) -> None:
        """Nothing is kept."""

    def forget_subject(self, subject: SubjectId) -> None:
        """Nothing is kept."""


class _Failures(msgspec.Struct, frozen=True):
    count: int
    until_ns: int  # no challenge before


class _Watch(msgspec.Struct, frozen=True):
    track_id: int
    subject: SubjectId
    challenge: Challenge
    looks: tuple[Looks, ...]  # of each part


class CheckedLiveness:
    """Liveness is required: only who passed a challenge may be announced. Owned by the pipeline's thread.

    ``random`` gives so many unpredictable bytes; ``prompt`` shows the person what to do, and None when it is over.
    ``parts`` have to be satisfied as well.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        prompt: Callable[[Prompt | None], None],
        parts: Sequence[Part] = (),
    ) -> None:
        self._random, self._prompt, self._parts = random, prompt, tuple(parts)
        self._shown: Prompt | None = None
        self._watch: _Watch | None = None
        self._passed: dict[int, SubjectId] = {}
        self._failures: dict[SubjectId, _Failures] = {}

    @property
    def watched(self) -> int | None:
        return None if self._watch is None else self._watch.track_id

    def vouch(self, track_id: int, subject: SubjectId) -> Liveness:
        """``passed`` after this track's challenge for this subject, else ``failed``: there is no third word."""
        return "passed" if self._passed.get(track_id) == subject else "failed"

    def see(self, frame: Frame, box: Sequence[float]) -> None:
        """Each part looks ``evidence.MAX_LOOKS`` times a challenge at the most, while the head looks ahead."""
        watch = self._watch
        if watch is not None:
            looks = tuple(
                seen.after(part, frame, box) if seen.due(watch.challenge, frame.timestamp_ns) else seen
                for part, seen in zip(self._parts, watch.looks, strict=True)
            )
            self._watch = replace(watch, looks=looks)

    def look(self, named: Mapping[int, SubjectId], angles: Angles | None, timestamp_ns: int) -> None:
        for track_id, subject in named.items():
            if self._passed.get(track_id, subject) != subject:
                del self._passed[track_id]
        if self._watch is not None:
            self._step(self._watch, named, angles, timestamp_ns)
        if self._watch is None:
            self._begin(named, timestamp_ns)
        self._show(None if self._watch is None else self._watch.challenge.prompt)

    def forget(self, track_ids: Iterable[int]) -> None:
        gone: Collection[int] = frozenset(track_ids)
        self._passed = {track_id: who for track_id, who in self._passed.items() if track_id not in gone}
        if self._watch is not None and self._watch.track_id in gone:
            self._fail(self._watch, self._watch.challenge.last_ns)

    def forget_all(self) -> None:
        """Drop every track; a challenge under way counts as failed, or stepping out would be free."""
        self._passed.clear()
        if self._watch is not None:
            self._fail(self._watch, self._watch.challenge.last_ns)

    def forget_subject(self, subject: SubjectId) -> None:
        self.forget_all()
        self._failures.pop(subject, None)

    def _begin(self, named: Mapping[int, SubjectId], now_ns: int) -> None:
        """Challenge the first named face that neither passed nor has to wait."""
        for track_id, subject in named.items():
            failures = self._failures.get(subject)
            waits = failures is not None and 0 <= failures.until_ns - now_ns <= LONGEST_REST_NS
            if track_id not in self._passed and not waits:
                self._watch = _Watch(track_id, subject, begin(self._random, now_ns), (Looks(),) * len(self._parts))
                return

    def _step(self, watch: _Watch, named: Mapping[int, SubjectId], angles: Angles | None, now_ns: int) -> None:
        challenge, subject = watch.challenge, named.get(watch.track_id)
        if subject is not None and subject != watch.subject:
            challenge = failed(challenge, "lost")
        elif angles is None:
            challenge = unseen(challenge, now_ns)
        else:
            challenge = advance(challenge, Look(*angles, matched=subject is not None, timestamp_ns=now_ns))
        suspect = not all(seen.passed(part) for part, seen in zip(self._parts, watch.looks, strict=True))
        if challenge.phase == "failed" or (challenge.phase == "passed" and suspect):
            self._fail(watch, now_ns)
        elif challenge.phase == "passed":
            self._passed[watch.track_id] = watch.subject
            self._failures.pop(watch.subject, None)
            self._watch = None
        else:
            self._watch = replace(watch, challenge=challenge)

    def _fail(self, watch: _Watch, now_ns: int) -> None:
        before = self._failures.pop(watch.subject, None)
        count = 1 if before is None else before.count + 1
        rest_ns = min(FIRST_REST_NS << min(count - 1, 16), LONGEST_REST_NS)
        while len(self._failures) >= MAX_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._failures[watch.subject] = _Failures(count, now_ns + rest_ns)
        self._watch = None
        self._show(None)

    def _show(self, prompt: Prompt | None) -> None:
        if prompt != self._shown:
            self._shown = prompt
            self._prompt(prompt)
