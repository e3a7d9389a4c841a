# SPDX-License-Identifier: Apache-2.0
"""Problems that a unit lives with, told in its log without flooding it."""

from __future__ import annotations

import logging

from agent.clock import Clock
from agent.errors import PosternError

log = logging.getLogger("postern")

REPEAT_S = 60.0  # the same problem is logged once a minute at most


class Problems:
    """Logs problems, each text once a minute at most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[type[PosternError], tuple[str, int]] = {}

    def __call__(self, error: PosternError) -> None:
        text, now_ns = str(error), self._clock.monotonic_ns()
        last_text, last_ns = self._last.get(type(error), ("", 0))
        if text != last_text or now_ns - last_ns > REPEAT_S * 1e9:
            self._last[type(error)] = (text, now_ns)
            log.error("%s", text)
