# SPDX-License-Identifier: Apache-2.0
"""What a unit tells others of its decisions: which errors its policy promises, and measured, for so many people."""

from __future__ import annotations

from agent.match.policy import MILLION, Policy
from agent.uplink.info import Expected


def expected(policy: Policy, size: int) -> Expected:
    """What ``policy`` says of a gallery of ``size`` people, as it is told to others."""
    threshold, misses = policy.threshold(size, policy.probe.first), policy.misses(size)
    return Expected(
        fpir_ppm=round(threshold.rate * MILLION),
        threshold=threshold.state,
        gallery=None if misses is None else misses.gallery,
        fnir_ppm=None if misses is None else misses.fnir_ppm,
        fnir_low_ppm=None if misses is None else misses.low_ppm,
        fnir_high_ppm=None if misses is None else misses.high_ppm,
    )
