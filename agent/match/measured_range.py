# SPDX-License-Identifier: Apache-2.0
"""Whether the policy's table reaches as far as the gallery: beyond that, more strangers match than it promises."""

from __future__ import annotations

import logging

from agent.match.policy import Policy

log = logging.getLogger("postern")


def shortfall(policy: Policy, size: int) -> str | None:
    """What is wrong with a gallery of ``size`` references under ``policy``, and what to do; None when nothing is."""
    threshold = policy.threshold(size, policy.probe.first)
    if threshold.state != "beyond":
        return None
    return (
        f"{size} people are enrolled, and the policy reaches up to {policy.covered_references}: expect an FPIR of up to"
        f" {threshold.rate:.2g} instead of {policy.target_fpir:.2g}; calibrate it on more people, or enrol fewer at"
        " this unit"
    )


class MeasuredRange:
    """Logs when the gallery leaves the range of the policy, and when it is back; each once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._size, self._beyond = 0, False

    def look(self, size: int) -> None:
        """Take note that the gallery has ``size`` references; cheap while that does not change."""
        if size == self._size:
            return
        self._size = size
        problem = shortfall(self._policy, size)
        if problem is not None and not self._beyond:
            log.warning("%s", problem)
        elif problem is None and self._beyond:
            log.info("%d people are enrolled: the policy reaches that far", size)
        self._beyond = problem is not None
