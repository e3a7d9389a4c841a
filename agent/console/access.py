# SPDX-License-Identifier: Apache-2.0
"""Who may use the console: the one who types the code, once, until the opening ends.

A code makes one session; another browser needs another opening. Wrong codes cost time for everybody, and a few dozen
end the opening: of 2**80 codes nobody finds one, and what tries is told in the log.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from typing import Final

from agent.clock import Clock
from agent.console.opening import Opening, Scope, digest_of_code
from agent.errors import RefusedError

TOKEN_BYTES: Final = 32
TRY_S: Final = 1.0  # between two tries, whoever makes them
MAX_WRONG: Final = 50  # codes that are wrong; then the console has to be opened again


class Access:
    """Of one opening at a time. All methods may be called from any thread."""

    def __init__(self, clock: Clock, random: Callable[[int], bytes], *, on_flood: Callable[[], None]) -> None:
        """``on_flood`` is called when too many codes were wrong; it has to end the opening."""
        self._clock, self._random, self._on_flood = clock, random, on_flood
        self._lock = threading.Lock()
        self._opening: Opening | None = None
        self._token: str | None = None
        self._used = False
        self._wrong = 0
        self._tried_ns: int | None = None

    def take(self, opening: Opening | None) -> None:
        """Serve ``opening`` from now on; another one than before ends the session of that."""
        with self._lock:
            if opening != self._opening:
                self._opening, self._token, self._used = opening, None, False
                self._wrong, self._tried_ns = 0, None

    def login(self, code: str) -> str:
        """Return the token of a new session; RefusedError says why there is none."""
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if self._opening is None or self._opening.seconds_left(self._clock) == 0:
                raise RefusedError("the console is closed: open it again")
            if self._used:
                raise RefusedError("this code was used: open the console again for a new one")
            if self._tried_ns is not None and now_ns - self._tried_ns < TRY_S * 1e9:
                raise RefusedError("one try a second: wait for a moment", reason="too_fast")
            self._tried_ns = now_ns
            if not hmac.compare_digest(digest_of_code(code), self._opening.code):
                self._wrong += 1
                if self._wrong >= MAX_WRONG:
                    self._opening = None
                    self._on_flood()
                raise RefusedError("this is not the code: look at it once more")
            self._token, self._used = self._random(TOKEN_BYTES).hex(), True
            return self._token

    def leave(self, token: str) -> None:
        """End the session of ``token``, if it is one."""
        if self.scope(token) is not None:
            with self._lock:
                self._token = None

    def scope(self, token: str) -> Scope | None:
        """Return what the session of ``token`` may do; None when there is no such session (any more)."""
        with self._lock:
            opening = self._opening
            if opening is None or self._token is None or opening.seconds_left(self._clock) == 0:
                return None
            known = hmac.compare_digest(token.encode(errors="replace"), self._token.encode())
            return opening.scope if known else None

    def seconds_left(self) -> int:
        with self._lock:
            return 0 if self._opening is None else self._opening.seconds_left(self._clock)
