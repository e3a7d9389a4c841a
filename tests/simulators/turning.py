# SPDX-License-Identifier: Apache-2.0
"""Faces that turn before a challenge, as angles: one that does as it is asked, and films that do not look."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.door.challenge import Challenge, Look, Prompt, advance

FRAME_NS = 80_000_000
FAR = {"left": (25.0, 0.0), "right": (-25.0, 0.0), "up": (0.0, -15.0), "down": (0.0, 15.0)}
DELAY = 5  # frames from a prompt to the turned head


def obedient(ahead: tuple[float, float] = (0.0, 0.0)) -> Callable[[Prompt | None], tuple[float, float]]:
    """Answer each frame's prompt with angles; a turn takes ``DELAY`` frames from being asked."""
    asked: list[Prompt | None] = []

    def pose(prompt: Prompt | None) -> tuple[float, float]:
        asked.append(prompt)
        seen = asked[max(0, len(asked) - DELAY)]
        turn = FAR.get(seen or "", (0.0, 0.0))
        return ahead[0] + turn[0], ahead[1] + turn[1]

    return pose


def played(
    challenge: Challenge,
    pose: Callable[[Prompt | None], tuple[float, float]],
    *,
    matched: bool = True,
    frames: int = 600,
) -> Iterator[Challenge]:
    """The challenge after each frame; the face is matched in every one, or in none."""
    now = challenge.last_ns
    for _ in range(frames):
        yaw, pitch = pose(challenge.prompt)
        challenge = advance(challenge, Look(yaw, pitch, matched, now))
        yield challenge
        if challenge.over:
            return
        now += FRAME_NS
