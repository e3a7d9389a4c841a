# SPDX-License-Identifier: Apache-2.0
"""What a scenario says: who is enrolled, what the camera sees, what goes wrong when, and what must come of it.

Strict YAML, checked as the configuration is: each mistake with its line and key. Times are seconds from the moment
the camera starts; ``tools/scenarios/README.md`` explains by example.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agent.camera.scene.people import PERSON_IDS
from agent.camera.scene.script import SceneScript, load_script
from agent.clock import ClockState
from agent.config.check import Problem, convert, refusal
from agent.errors import ConfigError
from agent.parse.strict_yaml import read_document
from agent.protocol.event import Condition
from tools.lib.rig.faults import (
    MAX_SECONDS,
    At,
    CameraUnplugged,
    ClockStep,
    DiskSlow,
    Fault,
    Press,
    PressKey,
    Verify,
    Who,
    Withdraw,
    mistakes,
)
from tools.lib.rig.tokens import Token

MAX_FAULTS = 64
MAX_EXPECTED = 64
MAX_SLACK_S = 60.0  # what comes later than that has not come
DISPLAY = "display"  # in the unit's folder
DEFAULT_START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)  # a Monday morning, in the middle of no epoch change

Moment = Annotated[datetime, Meta(tz=True, description="ISO 8601 with an offset, in quotes")]
Words = Annotated[str, Meta(min_length=3, max_length=200, description="text that must stand in it")]
Milliseconds = Annotated[int, Meta(ge=1, le=600_000, description="how soon after the event that is expected before it")]
Slack = Annotated[float, Meta(ge=0, le=MAX_SLACK_S, description="how late events may be where time is the machine's")]
Count = Annotated[int, Meta(ge=0, le=1000)]


class Enrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Somebody who consented before the camera starts."""

    who: Who
    expires_at: Moment | None = None

    def __post_init__(self) -> None:
        if self.who not in PERSON_IDS:
            raise ValueError(f"there is no demo person of that name; known: {PERSON_IDS[0]} to {PERSON_IDS[-1]}")


class _Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="event"):
    between: Annotated[tuple[At, At], Meta(description="when it must arrive, [from, to]")] = (0.0, MAX_SECONDS)
    within_ms: Milliseconds | None = None
    times: Annotated[tuple[int, int], Meta(description="how often, [least, most]")] = (1, 1)
    backlog: bool | None = None

    def __post_init__(self) -> None:
        if not (self.between[0] <= self.between[1] and 0 <= self.times[0] <= self.times[1]):
            raise ValueError("give 'between' and 'times' as [smaller, larger]")


class _ExpectPerson(_Expected, frozen=True, forbid_unknown_fields=True, kw_only=True):
    who: Who
    pseudonym: Annotated[
        Literal["same", "new"] | None, Meta(description="against the event about this person before it")
    ] = None


class ExpectMatch(_ExpectPerson, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="match"):
    """An enrolled person was recognised.

    Where a scenario cares: ``liveness`` is what the event says of it, ``granted`` what it must say that it opens.
    """

    liveness: Literal["passed", "not_checked"] | None = None
    granted: Annotated[str, Meta(max_length=64)] | None = None


class ExpectPresence(_ExpectPerson, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="presence"):
    """An enrolled person came or went."""

    state: Literal["arrived", "left"]


class ExpectUnit(_Expected, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="unit"):
    """The unit speaks about itself."""

    condition: Condition


Expected = ExpectMatch | ExpectPresence | ExpectUnit


class ExpectPulse(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of the board that goes on, and off again after its time."""

    line: Annotated[int, Meta(ge=0, le=1023)]
    between: Annotated[tuple[At, At], Meta(description="when it must go on, [from, to]")] = (0.0, MAX_SECONDS)
    lasts_ms: Annotated[tuple[int, int], Meta(description="how long it is on, [least, most]")] | None = None


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the scenario may cost; counts that do not depend on the machine. None: nobody asks."""

    event_bytes: Annotated[int, Meta(ge=200, le=4096, description="longest event")] = 1400
    embeddings: Annotated[int, Meta(ge=0, le=100_000, description="embeddings made at most")] | None = None
    disk_bytes: Annotated[int, Meta(ge=0, le=2**30, description="growth of the unit's stores")] | None = None
    memory_mib: Annotated[int, Meta(ge=1, le=2**14, description="resident memory of the process")] | None = None
    together_mib: Annotated[int, Meta(ge=1, le=2**14, description="resident memory of it and its children")] | None = (
        None
    )
    threads: Annotated[int, Meta(ge=1, le=1000, description="threads of the process")] | None = None
    open_files: Annotated[int, Meta(ge=1, le=1000, description="open files of the process")] | None = None


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One scenario; its name is the file's."""

    promise: Annotated[str, Meta(min_length=20, max_length=400, description="what must hold, whatever the models are")]
    scene: Annotated[Path, Meta(description="a scene script")] | None = None
    script: SceneScript | None = None
    video: Annotated[Path, Meta(description="a recorded video instead of a scene")] | None = None
    seconds: Annotated[float, Meta(gt=0, le=MAX_SECONDS, description="how long; default: as long as the scene")] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 1
    start: Moment = DEFAULT_START
    clock: ClockState = "synced"
    enrolled: Annotated[tuple[Enrolled, ...], Meta(max_length=8)] = ()
    example: (
        Annotated[Path, Meta(description="a file of sections that the unit's file has, as it is shipped")] | None
    ) = None
    configuration: Annotated[dict[str, Any], Meta(max_length=16, description="dotted keys of the unit's file")] = {}
    tokens: Annotated[
        tuple[Token, ...], Meta(max_length=4, description="what people hold up who are not enrolled at this unit")
    ] = ()
    faults: Annotated[tuple[Fault, ...], Meta(max_length=MAX_FAULTS)] = ()
    expect: Annotated[tuple[Expected, ...], Meta(max_length=MAX_EXPECTED)] = ()
    pulses: (
        Annotated[
            tuple[ExpectPulse, ...],
            Meta(
                max_length=MAX_EXPECTED, description="every pulse that must come, in their order; default: nobody looks"
            ),
        ]
        | None
    ) = None
    lit: Annotated[
        tuple[int, ...], Meta(max_length=8, description="lines that go on, how often is chance's; instead of pulses")
    ] = ()
    dark: Annotated[tuple[int, ...], Meta(max_length=8, description="lines that never go on, whatever else does")] = ()
    answers: Annotated[
        tuple[Literal["verified", "not_verified", "nobody"], ...],
        Meta(max_length=8, description="what the unit answers to each 'verify', in their order"),
    ] = ()
    slack_s: Slack | None = None
    resent: Annotated[
        tuple[Count, Count] | None, Meta(description="messages that came again, [least, most]; default: any number")
    ] = None
    log: Annotated[tuple[Words, ...], Meta(max_length=8, description="texts that the unit must log")] = ()
    ends: Annotated[Words | None, Meta(description="how the unit refuses to go on; default: a clean stop")] = None
    budgets: Budgets = Budgets()

    def __post_init__(self) -> None:
        if self.tokens and self.script is None:
            raise ValueError("tokens are drawn into a 'script'")
        if sum(one is not None for one in (self.scene, self.script, self.video)) != 1:
            raise ValueError("give one of 'scene', 'script' and 'video'")
        people = [one.who for one in self.enrolled]
        if len(set(people)) != len(people):
            raise ValueError("somebody is enrolled twice")
        if self.resent is not None and self.resent[0] > self.resent[1]:
            raise ValueError("give 'resent' as [smaller, larger]")
        named = [one.who for one in self.faults if isinstance(one, Withdraw | Verify)]
        named += [one.who for one in self.expect if isinstance(one, ExpectMatch | ExpectPresence)]
        if missing := sorted(set(named) - {*people, *(one.who for one in self.tokens)}):
            raise ValueError(f"{missing[0]} is named in faults or expect and is not enrolled")

    def view(self) -> SceneScript | None:
        """What a simulated camera sees; None when a video is played. Raises ConfigError."""
        return load_script(self.scene) if self.scene is not None else self.script

    def changes(self) -> dict[str, Any]:
        """What the unit's file says besides the rig's own, by dotted key. Raises ConfigError.

        An example counts as it is shipped, but for the place of its display's text: that lies in the unit's folder.
        """
        sections = {} if self.example is None else read_document(self.example).data
        if (sections.get("feedback") or {}).get("text") is not None:
            sections = {**sections, "feedback": {**sections["feedback"], "text": DISPLAY}}
        return {**sections, **self.configuration}

    @property
    def needs_clock(self) -> bool:
        """Whether the wall clock must be other than it is."""
        return self.start != DEFAULT_START or any(isinstance(one, ClockStep) for one in self.faults)

    @property
    def needs_camera(self) -> bool:
        """Whether the camera has to fail."""
        return any(isinstance(one, CameraUnplugged) for one in self.faults)

    @property
    def needs_obedience(self) -> bool:
        """Whether somebody in it has to do what the door shows: only a rig that sees that can play it."""
        view = self.view()
        return view is not None and (bool(self.tokens) or any(person.obeys for person in view.people))

    @property
    def needs_board(self) -> bool:
        """Whether the unit has wires."""
        wired = self.pulses is not None or bool(self.lit or self.dark)
        return wired or any(isinstance(one, Press | PressKey) for one in self.faults)

    @property
    def needs_process(self) -> bool:
        """Whether the unit must be a process of its own."""
        return any(isinstance(one, DiskSlow) for one in self.faults)


def load_scenario(file: Path) -> Scenario:
    """Read and check; raises ConfigError with file, line and key of each mistake."""
    document = read_document(file)
    scenario = convert(document, Scenario)
    scenario.changes()
    try:
        view = scenario.view()
    except ValueError as error:
        raise refusal(document, [(("scene",), str(error))]) from error
    if scenario.video is not None and not scenario.video.is_file():
        raise refusal(document, [(("video",), "there is no such file")])
    length = scenario.seconds or (view.duration if view is not None else 0.0)
    if not length:
        raise refusal(document, [(("seconds",), "is missing: a video does not say how long it is")])
    wrong: list[Problem] = [(("faults", number), text) for number, text in mistakes(scenario.faults, length)]
    if wrong:
        raise refusal(document, wrong)
    return msgspec.structs.replace(scenario, seconds=length)


def load_scenarios(files: Sequence[Path]) -> list[Scenario]:
    """Read and check all of them; raises one ConfigError with every mistake in every file."""
    scenarios, wrong = [], []
    for file in files:
        try:
            scenarios.append(load_scenario(file))
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return scenarios
