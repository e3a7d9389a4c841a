# SPDX-License-Identifier: Apache-2.0
"""Problems that a unit lives with, told in its log without flooding it, and what a demonstration cost."""

from __future__ import annotations

import logging

from agent.clock import Clock
from agent.errors import PosternError
from agent.pipeline import Stages
from agent.uplink.session import UplinkNotice

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


def tell_uplink(notice: UplinkNotice) -> None:
    log.log(logging.INFO if notice.kind == "connected" else logging.WARNING, "%s", notice.message)


def tell_times(frames: int, elapsed_s: float, stages: Stages) -> None:
    """Log what a run cost; not in production, where the number of embeddings would be a trace of strangers."""
    log.info("%d frames in %.1f s", frames, elapsed_s)
    change, spared = stages.change, stages.cadence.spared
    log.info("the detector looked at %d frames", change.looked)
    log.info("nothing had changed in %d, and of nobody another look was due in %d", change.skipped, spared)
    for name, one in stages.times.summaries().items():
        log.info("stage %s: %d times, p50 %d us, p95 %d us", name, one.count, one.p50_us, one.p95_us)
