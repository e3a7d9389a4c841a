# SPDX-License-Identifier: Apache-2.0
"""From what was decided to what is queued: pseudonym, event, outbox; and what happens when the disk is full.

A draft that the disk refuses waits in memory, bounded, and is tried again: doors keep deciding while
somebody makes room. Order is kept: nothing overtakes a waiting draft.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import datetime
from typing import Any

import msgspec

from agent.clock import Clock
from agent.errors import KeyStoreError, PosternError, StorageError
from agent.match.presence import PresenceChange
from agent.match.records import Match
from agent.outbox.draft import Draft, make_match, make_presence, make_unit
from agent.outbox.epoch_keys import EpochKeys
from agent.outbox.queue import Outbox
from agent.protocol.event import Condition
from agent.protocol.subject import SubjectId
from agent.unit.forget import owner_of

MAX_WAITING = 256  # drafts in memory while the disk refuses: minutes of a busy door


class Identity(msgspec.Struct, frozen=True):
    """How subjects are named in events, and which policy and model decided."""

    audience: str
    policy: str
    model: str
    time_step_s: int = 1
    seal: Callable[[str, str], str] | None = None  # (pseudonym, epoch) to sealed subject


@dataclass(eq=False)
class Recorder:
    """Makes drafts and appends them; thread-safe.

    By ``settled`` past keys are destroyed; ``matched`` notes the use of a reference, ``appended`` wakes the uplink,
    ``on_problem`` logs.
    """

    identity: Identity
    _: KW_ONLY
    outbox: Outbox
    epoch_keys: EpochKeys
    clock: Clock
    settled: Callable[[], datetime | None]
    presence: bool
    matched: Callable[[SubjectId], None]
    appended: Callable[[], None]
    on_problem: Callable[[PosternError], None]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Draft, SubjectId | None]] = deque(maxlen=MAX_WAITING)

    def outcome(self, outcome: Match | PresenceChange, granted: tuple[str, ...] = ()) -> None:
        """Queue a match, with the outputs that it opened, or a presence change if the unit publishes those.

        Never raises PosternError.
        """
        if isinstance(outcome, PresenceChange) and not self.presence:
            return
        try:
            draft = self._draft(outcome, granted)
        except KeyStoreError as error:  # without an epoch key there is no name that may be published
            self.on_problem(error)
            return
        self._append(draft, outcome.subject)
        if isinstance(outcome, Match):
            try:
                self.matched(outcome.subject)
            except StorageError as error:
                self.on_problem(error)

    def unit(self, condition: Condition) -> None:
        """Queue a statement about the unit itself; never raises PosternError."""
        now, clock = self.clock.now(), self.clock.state()
        self._append(make_unit(condition, now=now, clock=clock, time_step_s=self.identity.time_step_s), None)

    def retry(self) -> None:
        with self._lock:
            self._flush()

    def forget(self, subject: SubjectId) -> None:
        """Drop waiting drafts about a subject that was erased."""
        with self._lock:
            self._waiting = deque((row for row in self._waiting if row[1] != subject), MAX_WAITING)

    def _append(self, draft: Draft, owner: SubjectId | None) -> None:
        with self._lock:
            if len(self._waiting) == MAX_WAITING:
                self.on_problem(StorageError("the disk stays full: events are being lost; make room on it now"))
            self._waiting.append((draft, owner))
            self._flush()

    def _flush(self) -> None:
        while self._waiting:
            draft, owner = self._waiting[0]
            try:
                self.outbox.append(draft, owner=None if owner is None else owner_of(owner))
            except StorageError as error:
                self.on_problem(error)
                return
            self._waiting.popleft()
            self.appended()

    def _draft(self, outcome: Match | PresenceChange, granted: tuple[str, ...]) -> Draft:
        identity, now, clock = self.identity, self.clock.now(), self.clock.state()
        name, epoch = self.epoch_keys.pseudonym(outcome.subject, identity.audience, now, settled=self.settled())
        subject = name if identity.seal is None else identity.seal(name, epoch)
        about: dict[str, Any] = {"subject": subject, "audience": identity.audience, "epoch": epoch}
        about |= {"now": now, "clock": clock, "time_step_s": identity.time_step_s}
        if isinstance(outcome, Match):
            return make_match(outcome, policy=identity.policy, model=identity.model, granted=granted, **about)
        return make_presence(state=outcome.state, zone=outcome.zone, **about)
