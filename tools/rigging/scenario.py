# SPDX-License-Identifier: Apache-2.0
"""What a scenario says: who is enrolled, what the camera sees, what goes wrong when, and what must come of it.

Strict YAML, checked as the configuration is: each mistake with its line and key. Times are seconds from the moment
the camera starts; ``tools/scenarios/README.md`` explains by example.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.camera.scene_people import PERSON_IDS
from agent.camera.scene_script import SceneScript, load_script
from agent.clock import ClockState
from agent.config_check import convert, refusal
from agent.config_yaml import read_document
from agent.outbox.event import Condition

MAX_SECONDS = 600.0  # as long as a scene may last
MAX_FAULTS = 64
MAX_EXPECTED = 64
MAX_STEP_S = 4e8  # twelve years: what a reset battery does to a clock
DEFAULT_START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)  # a Monday morning, in the middle of no epoch change

At = Annotated[float, Meta(ge=0, le=MAX_SECONDS, description="seconds from the start of the camera")]
Who = Annotated[str, Meta(pattern=r"^person-[0-9]{2}$(?!\n)", description="a demo person: person-01 and so on")]
Moment = Annotated[datetime, Meta(tz=True, description="ISO 8601 with an offset, in quotes")]
Words = Annotated[str, Meta(min_length=3, max_length=200, description="text that must stand in it")]


class Enrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody who consented before the camera starts."""

    who: Who
    expires_at: Moment | None = None

    def __post_init__(self) -> None:
        if self.who not in PERSON_IDS:
            raise ValueError(f"there is no demo person of that name; known: {PERSON_IDS[0]} to {PERSON_IDS[-1]}")


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
    | ModelAltered
    | Restart
    | Reload
)


class _Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event"):
    between: Annotated[tuple[At, At], Meta(description="when it must arrive, [from, to]")] = (0.0, MAX_SECONDS)
    times: Annotated[tuple[int, int], Meta(description="how often, [least, most]")] = (1, 1)
    backlog: bool | None = None

    def __post_init__(self) -> None:
        if not (self.between[0] <= self.between[1] and 0 <= self.times[0] <= self.times[1]):
            raise ValueError("give 'between' and 'times' as [smaller, larger]")


class ExpectMatch(_Expected, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="match"):
    """An enrolled person was recognised."""

    who: Who


class ExpectPresence(_Expected, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="presence"):
    """An enrolled person came or went."""

    who: Who
    state: Literal["arrived", "left"]


class ExpectUnit(_Expected, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="unit"):
    """The unit speaks about itself."""

    condition: Condition


Expected = ExpectMatch | ExpectPresence | ExpectUnit


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the scenario may cost; counts that do not depend on the machine."""

    event_bytes: Annotated[int, Meta(ge=200, le=4096, description="longest event")] = 1400
    embeddings: Annotated[int, Meta(ge=0, le=100_000, description="embeddings made at most")] = 100_000
    disk_bytes: Annotated[int, Meta(ge=0, description="outbox, gallery and audit log at the end")] = 8 * 1024 * 1024


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One scenario; ``name`` is the file's."""

    promise: Annotated[str, Meta(min_length=20, max_length=400, description="what must hold, whatever the models are")]
    scene: Annotated[Path, Meta(description="a scene script")] | None = None
    script: SceneScript | None = None
    video: Annotated[Path, Meta(description="a recorded video instead of a scene")] | None = None
    seconds: Annotated[float, Meta(gt=0, le=MAX_SECONDS, description="how long; default: as long as the scene")] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1
    start: Moment = DEFAULT_START
    clock: ClockState = "synced"
    enrolled: Annotated[tuple[Enrolled, ...], Meta(max_length=8)] = ()
    configuration: Annotated[dict[str, Any], Meta(max_length=16, description="dotted keys of the unit's file")] = {}
    faults: Annotated[tuple[Fault, ...], Meta(max_length=MAX_FAULTS)] = ()
    expect: Annotated[tuple[Expected, ...], Meta(max_length=MAX_EXPECTED)] = ()
    log: Annotated[tuple[Words, ...], Meta(max_length=8, description="texts that the unit must log")] = ()
    ends: Annotated[Words | None, Meta(description="how the unit refuses to go on; default: a clean stop")] = None
    budgets: Budgets = Budgets()

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.scene, self.script, self.video)) != 1:
            raise ValueError("give one of 'scene', 'script' and 'video'")
        people = [one.who for one in self.enrolled]
        if len(set(people)) != len(people):
            raise ValueError("somebody is enrolled twice")
        named = [one.who for one in self.faults if isinstance(one, Withdraw)]
        named += [one.who for one in self.expect if isinstance(one, ExpectMatch | ExpectPresence)]
        if missing := sorted(set(named) - set(people)):
            raise ValueError(f"{missing[0]} is named in faults or expect and is not enrolled")

    def view(self) -> SceneScript | None:
        """What a simulated camera sees; None when a video is played. Raises ConfigError."""
        return load_script(self.scene) if self.scene is not None else self.script

    @property
    def needs_clock(self) -> bool:
        """Whether the wall clock must be other than it is."""
        return self.start != DEFAULT_START or any(isinstance(one, ClockStep) for one in self.faults)

    @property
    def needs_camera(self) -> bool:
        """Whether the camera has to fail."""
        return any(isinstance(one, CameraUnplugged) for one in self.faults)

    @property
    def needs_process(self) -> bool:
        """Whether the unit must be a process of its own."""
        return any(isinstance(one, DiskSlow) for one in self.faults)


def load_scenario(file: Path) -> Scenario:
    """Read and check; raises ConfigError with file, line and key of each mistake."""
    document = read_document(file)
    scenario = convert(document, Scenario)
    try:
        view = scenario.view()
    except ValueError as error:
        raise refusal(document, [(("scene",), str(error))]) from error
    length = scenario.seconds or (view.duration if view is not None else 0.0)
    if not length:
        raise refusal(document, [(("seconds",), "is missing: a video does not say how long it is")])
    late = [number for number, one in enumerate(scenario.faults) if one.at >= length]
    if late:
        raise refusal(document, [(("faults", late[0]), f"comes after the end, which is at {length:g} s")])
    return msgspec.structs.replace(scenario, seconds=length)
