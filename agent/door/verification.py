# SPDX-License-Identifier: Apache-2.0
"""``verify``: is the person before the camera the one who is named? One question at a time, one word as the answer.

While a question is open the unit compares with that one reference alone, and only what the gate admits. The answer is
``verified``, ``not_verified`` (somebody acted, and was not that person as far as the unit can tell) or ``nobody``
(nobody acted). It holds no score, and questions are few: whoever holds the site's key cannot try out a face by asking.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from agent.clock import Clock
from agent.errors import RefusedError
from agent.protocol.subject import SubjectId

MIN_WINDOW_S, MAX_WINDOW_S = 3, 60  # an attempt takes two seconds; a minute is enough to come near
MAX_QUESTIONS, PER_NS = 6, 60_000_000_000  # a minute: a driver check is asked once

Answer = Literal["verified", "not_verified", "nobody"]


class _Question(msgspec.Struct):
    name: str
    subject: SubjectId
    ends_ns: int
    acted: bool = False
    taken: bool = False  # whether the pipeline has begun anew for it


class Verification:
    """See the module. Commands come on the uplink's thread, the rest is the pipeline's.

    ``tell`` takes a question's name and its answer, and must not block.
    """

    def __init__(self, clock: Clock, tell: Callable[[str, Answer], None]) -> None:
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._open: _Question | None = None
        self._asked_ns: deque[int] = deque(maxlen=MAX_QUESTIONS)

    @property
    def subject(self) -> SubjectId | None:
        """Who is asked for at this moment, if anybody is."""
        held = self._open
        return None if held is None else held.subject

    def begin(self, name: str, subject: SubjectId, window_s: object) -> Mapping[str, Any]:
        """Ask for ``subject`` for so many seconds; what there is to say now. Raises RefusedError."""
        if type(window_s) is not int or not MIN_WINDOW_S <= window_s <= MAX_WINDOW_S:
            raise RefusedError(f"window_s is a number of seconds, {MIN_WINDOW_S} to {MAX_WINDOW_S}", reason="bad_args")
        self.expire()
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if self._open is not None:
                raise RefusedError("another verification is under way: wait for its answer", reason="verify_open")
            if len(self._asked_ns) == MAX_QUESTIONS and now_ns - self._asked_ns[0] < PER_NS:
                raise RefusedError(f"at most {MAX_QUESTIONS} questions a minute: wait", reason="too_many")
            self._asked_ns.append(now_ns)
            self._open = _Question(name, subject, now_ns + window_s * 1_000_000_000)
        return {"state": "waiting", "seconds": window_s}

    def take(self) -> int | None:
        """When a question ends that was opened since the last call, in nanoseconds; None when none was."""
        held = self._open
        if held is None or held.taken:
            return None
        held.taken = True
        return held.ends_ns

    def acting(self) -> None:
        """Somebody's face was admitted in this frame."""
        if (held := self._open) is not None:
            held.acted = True

    def matched(self, subject: SubjectId) -> bool:
        """Whether this match answers the open question; it is answered then."""
        with self._lock:
            held = self._open
            if held is None or not held.taken or held.subject != subject:
                return False
            self._open = None
        self._tell(held.name, "verified")
        return True

    def expire(self) -> None:
        """Answer a question whose time is over; to be called now and then, also while no frame comes."""
        with self._lock:
            held = self._open
            if held is None or self._clock.monotonic_ns() < held.ends_ns:
                return
            self._open = None
        self._tell(held.name, "not_verified" if held.acted else "nobody")

    def cancel(self) -> None:
        """Answer an open question because the unit cannot go on with it."""
        with self._lock:
            held, self._open = self._open, None
        if held is not None:
            self._tell(held.name, "nobody")
