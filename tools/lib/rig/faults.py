# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in a scenario, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from agent.clock import ClockState

MAX_SECONDS = 600.0  # as long as a scene may last
MAX_STEP_S = 4e8  # twelve years: what a reset battery does to a clock

At = Annotated[float, Meta(ge=0, le=MAX_SECONDS, description="seconds from the start of the camera")]
Who = Annotated[str, Meta(pattern=r"^person-[0-9]{2}$(?!\n)", description="a demo person: person-01 and so on")]


class _Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="do"):
    at: At


class Lasting(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes on until a time."""

    until: At

    def __post_init__(self) -> None:
        if self.until <= self.at:
            raise ValueError("'until' must be later than 'at'")


class BrokerDown(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="broker_down"):
    """The broker is stopped and started again."""


class LinkRefused(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="link_refused"):
    """Connections are cut, and new ones closed at once."""


class LinkSilent(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="link_silent"):
    """Half-open: the connection stands and nothing gets through."""


class AnswersLost(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="answers_lost"):
    """The broker gets everything, its acknowledgements do not come back: what it has is sent again."""


class LinkSlow(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="link_slow"):
    """Everything takes ``delay_ms`` longer, each way."""

    delay_ms: Annotated[int, Meta(ge=1, le=5000, description="milliseconds each way, 1 to 5000")]


class LinkCut(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="link_cut"):
    """The connection breaks once."""


class CameraUnplugged(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="camera_unplugged"):
    """No pictures, and no camera to be found; what happens before it goes on."""


class DiskFull(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="disk_full"):
    """Every write to a file fails."""


class DiskSlow(Lasting, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="disk_slow"):
    """Making anything durable takes ``delay_ms`` longer; needs a process of its own."""

    delay_ms: Annotated[int, Meta(ge=1, le=5000, description="milliseconds each time, 1 to 5000")]


class PowerCut(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="power_cut"):
    """The unit dies in the middle of a write, which stays half done, and starts again."""


class Kill(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="kill"):
    """Kill -9, and a new start."""


class ClockStep(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="clock_step"):
    """Somebody or something sets the wall clock."""

    seconds: Annotated[float, Meta(ge=-MAX_STEP_S, le=MAX_STEP_S, description="seconds, forward or back")]
    clock: ClockState = "unsynced"


class Withdraw(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="withdraw"):
    """A person withdraws: the site's signed command reaches the unit."""

    who: Who


class Press(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="press"):
    """Somebody presses the button on a line of the board."""

    line: Annotated[int, Meta(ge=0, le=1023)]


class PressKey(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="press_key"):
    """Somebody presses a key of the unit's input device."""

    device: Path
    key: Annotated[str, Meta(pattern=r"^(KEY|BTN)_[A-Z0-9_]{1,40}$")]


class Request(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="request"):
    """The site's signed command opens the window."""


class Verify(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="verify"):
    """The site's signed command asks whether the person before the camera is this one."""

    who: Who
    window_s: Annotated[int, Meta(ge=3, le=60, description="seconds")]


class ModelAltered(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="model_altered"):
    """One bit of the embedder's file flips."""


class Restart(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="restart"):
    """A clean stop and a new start, as after an upgrade."""


class Reload(_Fault, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="reload"):
    """The configuration file changes (``set``: dotted keys and their new values), and SIGHUP comes."""

    set: Annotated[dict[str, Any], Meta(min_length=1, max_length=16)]


Fault = (
    BrokerDown
    | LinkRefused
    | LinkSilent
    | AnswersLost
    | LinkSlow
    | LinkCut
    | CameraUnplugged
    | DiskFull
    | DiskSlow
    | PowerCut
    | Kill
    | ClockStep
    | Withdraw
    | Press
    | PressKey
    | Request
    | Verify
    | ModelAltered
    | Restart
    | Reload
)

# Of the link to the broker: a link has one state, so the end of one of these would end any other.
LINK = (BrokerDown, LinkRefused, LinkSilent, AnswersLost, LinkSlow)


def mistakes(faults: Sequence[Fault], length: float) -> Iterator[tuple[int, str]]:
    """What cannot be played in a scenario of ``length`` seconds: number of the fault, and why."""
    for number, fault in enumerate(faults):
        if fault.at >= length:
            yield number, f"comes after the end, which is at {length:g} s"
        elif isinstance(fault, Lasting) and fault.until > length:
            yield number, f"'until' is after the end, which is at {length:g} s"
    lasting = [(number, one) for number, one in enumerate(faults) if isinstance(one, Lasting)]
    for kinds in (LINK, *((kind,) for kind in (CameraUnplugged, DiskFull, DiskSlow))):
        of_kind = sorted(((number, one) for number, one in lasting if isinstance(one, kinds)), key=lambda n: n[1].at)
        for (_, earlier), (number, later) in pairwise(of_kind):
            if later.at <= earlier.until:
                what = "of the link " if kinds is LINK else ""
                yield number, f"must begin after {earlier.until:g} s: one fault {what}at a time"
