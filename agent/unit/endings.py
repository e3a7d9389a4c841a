# SPDX-License-Identifier: Apache-2.0
"""What runs out at a running unit, told in its log in good time and in its health: nobody runs a check by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from agent.clock import Clock
from agent.errors import PosternError
from agent.mqtt.credentials import Credentials, read_ends

log = logging.getLogger("postern")

NOTICE: Final = timedelta(days=30)  # before a certificate ends: whoever looks once a month has time left
AUTHORITY_NOTICE: Final = timedelta(days=180)  # a new site means that everybody joins anew
TOKENS_NOTICE: Final = timedelta(days=4)  # of a list that lasts two weeks
WEEKS_NOTICE: Final = 1  # epoch keys of this week alone are left: the unit falls silent when it is over
REPEAT_NS: Final = 24 * 3600 * 1_000_000_000  # each is told once a day


class Endings:
    """Looks at the files as they are now, so that what was renewed is told no longer. ``weeks`` counts epochs held.

    ``tokens`` says until when the list of tokens counts, where tokens are taken; it may raise PosternError.
    """

    def __init__(
        self,
        credentials: Credentials,
        clock: Clock,
        *,
        unit: str,
        weeks: Callable[[], int],
        tokens: Callable[[], datetime | None],
    ) -> None:
        self._credentials, self._clock, self._unit, self._weeks = credentials, clock, unit, weeks
        self._tokens = tokens
        self._next_ns = clock.monotonic_ns()

    def days_left(self) -> int | None:
        """Whole days until certificate or authority ends, whichever is first; 0 when over, None if not readable."""
        try:
            left = min(read_ends(self._credentials)) - self._clock.now()
        except PosternError:
            return None
        return max(left.days, 0)

    def look(self) -> None:
        """Tell what ends soon, once a day; a clock that is not known to be right tells nothing that it would."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._next_ns or self._clock.state() == "unsynced":
            return
        self._next_ns = now_ns + REPEAT_NS
        for text in self._soon():
            log.warning("%s", text)

    def _soon(self) -> Iterator[str]:
        now = self._clock.now()
        certificate, authority = read_ends(self._credentials)
        if authority - now < AUTHORITY_NOTICE:
            yield f"the site's authority ends on {authority:%Y-%m-%d}: make a new site before, every unit joins anew"
        if certificate - now < NOTICE:
            advice = f"postern site renew-unit {self._unit}, then postern unit install"
            yield f"this unit's certificate ends on {certificate:%Y-%m-%d}: renew it ({advice})"
        if (weeks := self._weeks()) <= WEEKS_NOTICE:
            left = "this week's epoch key is the last" if weeks else "there is no epoch key, so nobody is announced"
            advice = f"postern site issue-keys {self._unit}, then postern ask {self._unit} key/rotate"
            yield f"{left}: issue new ones ({advice})"
        try:
            ends = self._tokens()
        except PosternError as error:
            yield str(error)
        else:
            if ends is not None and ends - now < TOKENS_NOTICE:
                advice = f"postern site token-list, then postern ask {self._unit} key/rotate token_list=@FILE"
                yield f"no token is taken after {ends:%Y-%m-%d}: carry a new list here ({advice})"
