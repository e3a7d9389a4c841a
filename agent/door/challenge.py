# SPDX-License-Identifier: Apache-2.0
"""The challenge: turn your head as the door asks. A pure state machine; time, chance and angles come from outside.

The nose stands before the plane of eyes and mouth. Turning a head moves it within that plane, and no tilting of a
**flat** picture does: so a head whose measured angles change as asked is no flat print and no still on a tablet
(``agent.detect.pose``; angles are affine coordinates of the nose). What else a challenge asks of a face:

- several steps of left, right, up and down in a random order, the same never twice running, both left and right among
  them (a tilted print moves least there, and least to both sides), each after a pause of random length: a film of
  somebody turning has to guess. Who turns before being asked, sooner than anybody reacts, or another way has failed;
- every angle is the mean of ``FRAMES`` frames, relative to how the same face looks straight ahead; of a turn those
  alone count that came when somebody could have reacted, whichever way was asked for;
- one unbroken track: a gap of ``MAX_GAP_NS`` ends it;
- before each step and after the last one the face looks ahead until it was matched as the same subject again.

A bent print, a mask and a film that guesses the order are not told apart. Times are sensor times in nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
from msgspec.structs import replace

Direction = Literal["left", "right", "up", "down"]
Phase = Literal["ahead", "pause", "turn", "passed", "failed"]
Reason = Literal["", "lost", "too_slow", "moved", "too_soon", "other_way"]
Prompt = Literal["left", "right", "up", "down", "front", "wait"]  # of which left is the person's own

DIRECTIONS: tuple[Direction, ...] = ("left", "right", "up", "down")
SIDEWAYS: tuple[Direction, ...] = ("left", "right")

MIN_STEPS, MAX_STEPS = 2, 3  # drawn by chance with weights: see ``begin``
FRAMES = 3  # of which each angle is the mean: one frame trembles by a degree
# Measured degrees from looking ahead (models/README.md). Drawn heads that turn aside by 36 and more reach 15, those
# that rise or bow by 29 and more mostly 6; drawn flat prints and stills that are tilted as far stay below 15.
TURNED_YAW, TURNED_PITCH = 15.0, 6.0  # a turn that was asked for
AWAY_YAW, AWAY_PITCH = 12.0, 7.5  # a turn that was not: it fails
LEVEL_YAW = 8.0  # who rises or bows as asked does so without turning aside further
AHEAD_YAW, AHEAD_PITCH = 6.0, 5.0  # within it a face looks ahead again
MIN_REACTION_NS = 150_000_000  # 0.15 s: nobody sees a prompt and turns sooner
MIN_PAUSE_NS, MAX_PAUSE_NS = 300_000_000, 1_500_000_000
TURN_NS = 4_000_000_000  # 4 s to turn as asked
AHEAD_NS = 8_000_000_000  # 8 s to look ahead, until the dwell time is over and the face was matched again
MAX_GAP_NS = 500_000_000  # between two frames with the face; a slow camera has three in that time


class Look(msgspec.Struct, frozen=True):
    """The challenged face in one frame: measured degrees, and whether it was matched as the subject just now."""

    yaw: float
    pitch: float
    matched: bool
    timestamp_ns: int


class Challenge(msgspec.Struct, frozen=True):
    """One challenge as it stands. ``began_ns`` is when it or the last turn began; ``recent`` makes the next mean."""

    steps: tuple[Direction, ...]
    pauses_ns: tuple[int, ...]  # before each step, and after the last one
    began_ns: int
    last_ns: int
    paused_ns: int = 0  # since when the face looks ahead
    phase: Phase = "ahead"
    reason: Reason = ""
    done: int = 0
    ahead: tuple[float, float] | None = None
    recent: tuple[Look, ...] = ()
    matched: bool = False

    @property
    def over(self) -> bool:
        return self.phase in ("passed", "failed")

    @property
    def prompt(self) -> Prompt | None:
        """What the person is to do now."""
        if self.over:
            return None
        if self.phase == "turn":
            return self.steps[self.done]
        return "front" if self.phase == "ahead" and self.done else "wait"


def begin(random: Callable[[int], bytes], now_ns: int, *, steps: int = MAX_STEPS) -> Challenge:
    """A new challenge of ``steps`` turns; ``random`` gives so many unpredictable bytes."""
    if not MIN_STEPS <= steps <= MAX_STEPS:
        raise ValueError(f"a challenge has {MIN_STEPS} to {MAX_STEPS} steps")
    order = orders(steps)
    spread = MAX_PAUSE_NS - MIN_PAUSE_NS
    pauses = tuple(MIN_PAUSE_NS + _below(random, spread + 1) for _ in range(steps + 1))
    return Challenge(order[_below(random, len(order))], pauses, began_ns=now_ns, last_ns=now_ns)


def orders(steps: int) -> list[tuple[Direction, ...]]:
    """Every order that a challenge may have: of three steps 14.

    To both sides: a tilted flat sheet passes for turned now and then, to one side even twice (models/README.md).
    """
    found: list[tuple[Direction, ...]] = [()]
    for _ in range(steps):
        found = [(*order, step) for order in found for step in DIRECTIONS if order[-1:] != (step,)]
    return [order for order in found if set(SIDEWAYS) <= set(order)]


def _below(random: Callable[[int], bytes], end: int) -> int:
    return int.from_bytes(random(8), "big") % end  # of 64 bits: no remainder is preferred by more than 1e-9


def advance(challenge: Challenge, look: Look) -> Challenge:
    """The challenge after one more frame in which its face was seen."""
    if challenge.over:
        return challenge
    now = look.timestamp_ns
    if not 0 <= now - challenge.last_ns <= MAX_GAP_NS:
        return failed(challenge, "lost")
    if now - challenge.began_ns > (TURN_NS if challenge.phase == "turn" else AHEAD_NS):
        return failed(challenge, "too_slow")
    challenge = replace(challenge, last_ns=now)
    if challenge.phase == "turn" and challenge.ahead is not None and now - challenge.began_ns < MIN_REACTION_NS:
        on_the_way = away(look.yaw - challenge.ahead[0], look.pitch - challenge.ahead[1])
        return challenge if on_the_way is None else failed(challenge, "too_soon")
    recent = (*challenge.recent, look)[-FRAMES:]
    challenge = replace(challenge, recent=recent)
    if len(recent) < FRAMES:
        return challenge
    pose = (sum(one.yaw for one in recent) / FRAMES, sum(one.pitch for one in recent) / FRAMES)
    if challenge.ahead is None:  # the first frames say how this face looks when it looks ahead
        return _pause(replace(challenge, ahead=pose), now)
    yaw, pitch = pose[0] - challenge.ahead[0], pose[1] - challenge.ahead[1]
    match challenge.phase:
        case "ahead":
            return _pause(challenge, now) if _ahead(yaw, pitch) else challenge
        case "pause":
            return _paused(challenge, look, yaw, pitch)
        case _:
            return _turned(challenge, now, yaw, pitch)


def unseen(challenge: Challenge, now_ns: int) -> Challenge:
    """The challenge after a frame in which its face was not seen."""
    if challenge.over or 0 <= now_ns - challenge.last_ns <= MAX_GAP_NS:
        return challenge
    return failed(challenge, "lost")


def failed(challenge: Challenge, reason: Reason) -> Challenge:
    return replace(challenge, phase="failed", reason=reason, recent=())


def reached(way: Direction, yaw: float, pitch: float) -> bool:
    """Whether a head is turned ``way``, from measured degrees; left is the person's own, the right of the picture."""
    match way:
        case "left":
            return yaw >= TURNED_YAW
        case "right":
            return yaw <= -TURNED_YAW
        case "down":
            return pitch >= TURNED_PITCH and abs(yaw) <= LEVEL_YAW
        case _:
            return pitch <= -TURNED_PITCH and abs(yaw) <= LEVEL_YAW


def away(yaw: float, pitch: float) -> Direction | None:
    """Which way a head is turned so far that nobody who was not asked to turns it by accident."""
    if abs(yaw) >= AWAY_YAW:
        return "left" if yaw > 0 else "right"
    # A head that turns aside seems to rise or bow a little, so it only does so when it is not turned.
    if abs(pitch) >= AWAY_PITCH and abs(yaw) <= AHEAD_YAW:
        return "down" if pitch > 0 else "up"
    return None


def _ahead(yaw: float, pitch: float) -> bool:
    return abs(yaw) <= AHEAD_YAW and abs(pitch) <= AHEAD_PITCH


def _paused(challenge: Challenge, look: Look, yaw: float, pitch: float) -> Challenge:
    if away(yaw, pitch) is not None:
        return failed(challenge, "moved")
    challenge = replace(challenge, matched=challenge.matched or look.matched)
    waits = not challenge.matched or not _ahead(yaw, pitch)  # nobody is asked who is on the way somewhere
    if waits or look.timestamp_ns - challenge.paused_ns < challenge.pauses_ns[challenge.done]:
        return challenge
    if challenge.done == len(challenge.steps):
        return replace(challenge, phase="passed", recent=())
    return _phase(challenge, "turn", look.timestamp_ns)


def _turned(challenge: Challenge, now_ns: int, yaw: float, pitch: float) -> Challenge:
    asked = challenge.steps[challenge.done]
    if reached(asked, yaw, pitch):
        return _phase(replace(challenge, done=challenge.done + 1), "ahead", now_ns)
    return challenge if away(yaw, pitch) in (None, asked) else failed(challenge, "other_way")


def _pause(challenge: Challenge, now_ns: int) -> Challenge:
    """Looking ahead and being matched share the time of the phase before."""
    return replace(challenge, phase="pause", paused_ns=now_ns, recent=(), matched=False)


def _phase(challenge: Challenge, phase: Phase, now_ns: int) -> Challenge:
    return replace(challenge, phase=phase, began_ns=now_ns, recent=())
