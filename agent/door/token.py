# SPDX-License-Identifier: Apache-2.0
"""The act of holding up a token: a code with its bearer's own reference, sealed; with that alone it is compared (1:1).

What the code carries is in memory from the frame that showed it until the window ends, and is overwritten then: after a
match, a time-out, another act, a pause, an erasure and at the stop. While it is carried it is checked again a few times
a second: a window ends when the token does, or when a list comes that revokes it. Codes are looked for as often, in
frames that are looked at anyway, while no window is open and recognition runs. A code that is no token of Postern is
as good as none. A token that is left in view after its window does nothing until it was away for a moment. One that is
refused is told to its bearer in one sentence, and to nobody else: no log, no counter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from agent.camera.base import Picture
from agent.clock import Clock
from agent.errors import VerificationError
from agent.gallery.references import References
from agent.protocol.token import look_at

REST_NS = 3_000_000_000  # out of view for so long before the same token acts again: one act each time it is held up
READ_EVERY_NS = 200_000_000  # five times a second: nobody holds a code up for less
SHARE = 4  # times as long as it took passes before codes are looked for again: a hostile poster takes a fifth at most


class Codes(Protocol):
    """Reads codes in a picture."""

    def read(self, picture: Picture) -> list[bytes]: ...


@dataclass(frozen=True, slots=True, repr=False)
class Carried:
    """What a token brought: the reference of one subject, and the token's id and end, for what it may do once.

    ``check_again`` raises VerificationError when the token would not be taken any more.
    """

    references: References
    token_id: bytes
    expires_at: datetime
    check_again: Callable[[], None]

    def wipe(self) -> None:
        """Overwrite the reference."""
        self.references.matrix.fill(0)


class TokenAct:
    """Owned by the pipeline's thread. ``check`` verifies and opens what was read; it raises VerificationError."""

    def __init__(self, codes: Codes, check: Callable[[bytes], Carried], clock: Clock) -> None:
        self._codes, self._check, self._clock = codes, check, clock
        self._carried: Carried | None = None
        self._due_ns: int | None = None  # when codes, or what is carried, are looked at next
        self._rest: tuple[bytes, int] | None = None  # the token whose window ended, and when it was seen last

    @property
    def carried(self) -> Carried | None:
        """What is compared with now, if somebody brought it."""
        return self._carried

    def look(self, picture: Picture) -> Carried | str | None:
        """Look for a token: what it brought, ``carried`` from now on, or a sentence why not; None without one."""
        now_ns = self._clock.monotonic_ns()
        if self._carried is not None or not self._is_due(now_ns):
            return None
        if self._rest is not None and not 0 <= now_ns - self._rest[1] < REST_NS:
            self._rest = None
        refusal = None
        found = self._codes.read(picture)
        done_ns = self._clock.monotonic_ns()
        self._due_ns = max(now_ns + READ_EVERY_NS, done_ns + SHARE * (done_ns - now_ns))
        for data in found:
            try:
                if self._rest is not None and look_at(data).token_id == self._rest[0]:
                    self._rest = (self._rest[0], now_ns)
                    return None
                self._carried = self._check(data)
            except VerificationError as error:
                if error.reason != "no_token":
                    refusal = str(error)
            else:
                return self._carried
        return refusal

    def ended(self) -> str | None:
        """Why what is carried counts no more, if that is so: a sentence."""
        now_ns = self._clock.monotonic_ns()
        if self._carried is None or not self._is_due(now_ns):
            return None
        self._due_ns = now_ns + READ_EVERY_NS
        try:
            self._carried.check_again()
        except VerificationError as error:
            return str(error)
        return None

    def _is_due(self, now_ns: int) -> bool:
        return self._due_ns is None or now_ns >= self._due_ns

    def drop(self) -> bool:
        """Overwrite what was carried; whether there was anything."""
        if self._carried is None:
            return False
        self._rest = (self._carried.token_id, self._clock.monotonic_ns())
        self._carried.wipe()
        self._carried = None
        return True
