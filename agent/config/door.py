# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration about what people meet: buttons, lights, outputs, and the rules between them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.protocol import names

MAX_INPUTS = 4
MAX_OUTPUTS = 8
MAX_RULES = 16
MAX_COOLDOWN_S = 7 * 24 * 3600

Name = Annotated[names.Name, Meta(description=f"1 to {names.MAX_NAME} of the letters a-z, the digits 0-9 and '-'")]
Chip = Annotated[Path, Meta(description="a GPIO chip as gpiodetect shows it, /dev/gpiochip0")]
LineNumber = Annotated[int, Meta(ge=0, le=1023, description="the line's number on its chip, as gpioinfo shows it")]
PulseMs = Annotated[int, Meta(ge=50, le=60_000, description="how long it is on, 50 to 60000 ms")]


class GpioInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gpio"):
    """A button on a line of the board."""

    chip: Chip
    line: LineNumber
    bias: Annotated[
        Literal["as_is", "disabled", "pull_up", "pull_down"], Meta(description="the resistor inside the chip")
    ] = "pull_up"
    active_low: Annotated[bool, Meta(description="pressed pulls the line to ground, true or false")] = True
    debounce_ms: Annotated[int, Meta(ge=0, le=1000, description="the kernel's debounce, 0 to 1000 ms")] = 20


class KeyInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="key"):
    """A key of a USB button, which types nowhere else then."""

    device: Annotated[Path, Meta(description="an input device, best one of /dev/input/by-id")]
    key: Annotated[
        str,
        Meta(pattern=r"^(KEY|BTN)_[A-Z0-9_]{1,40}$(?!\n)", description="the key as evtest names it, such as KEY_ENTER"),
    ]


class CommandInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="command"):
    """The signed command recognition/request; nobody enrols by it."""


class SceneInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="scene"):
    """The presses of a scripted scene; with a simulated camera only."""


class TokenInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="token"):
    """A code that holds its bearer's own sealed reference, held up to the camera; it is compared with that alone."""


SpotInput = GpioInput | KeyInput | SceneInput  # what only somebody who stands there can press
ButtonInput = SpotInput | CommandInput
WindowInput = ButtonInput | TokenInput


class Enrolment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The act by which somebody who enrols shows that they are here."""

    button: Annotated[
        SpotInput | None,
        Meta(
            description="pressed by the person who enrols; without one, and where no other button is, they turn their"
            " head as the unit asks"
        ),
    ] = None


class GpioOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="gpio"):
    """A pulse on a line of the board."""

    name: Name
    chip: Chip
    line: LineNumber
    active_low: Annotated[bool, Meta(description="on pulls the line to ground, true or false")] = False
    pulse_ms: PulseMs = 3000


class EventOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="event"):
    """The signed event itself names the output: for doors without a wire to the unit."""

    name: Name


class OsdpOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="osdp"):
    """A card read at an access controller, by OSDP: the controller decides whether anything opens."""

    name: Name
    device: Annotated[Path, Meta(description="the serial line, best one of /dev/serial/by-id")]
    key_file: Annotated[Path, Meta(description="file (mode 0600) with the secure channel's key, 32 hex digits")]
    address: Annotated[int, Meta(ge=0, le=126, description="this reader's address at the controller, 0 to 126")] = 0
    baud: Annotated[
        int, Meta(ge=9600, le=230_400, description="speed of the line, 9600 to 230400 as it is set there")
    ] = 9600
    card: Annotated[
        str,
        Meta(
            pattern=r"^(person|([0-9a-f]{2}){1,8})$(?!\n)",
            description="'person': a number for each person (postern gallery card); or one number for all, hex digits",
        ),
    ] = "person"


class Light(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A lamp or a buzzer on a line of the board."""

    chip: Chip
    line: LineNumber
    active_low: Annotated[bool, Meta(description="on pulls the line to ground, true or false")] = False


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the person at the door sees or hears: the same for everybody who is not let in."""

    granted: Annotated[Light | None, Meta(description="on while somebody is let in")] = None
    wait: Annotated[Light | None, Meta(description="on while somebody who acted has to wait")] = None
    look: Annotated[Light | None, Meta(description="on while somebody is asked to do something")] = None
    text: Annotated[Path | None, Meta(description="a file that holds what a display shows, in /run/postern")] = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What opens when somebody was matched; all of its conditions must hold."""

    name: Name
    then: Annotated[
        tuple[Name, ...], Meta(min_length=1, max_length=MAX_OUTPUTS, description="names of outputs, one or more")
    ]
    when: Annotated[
        Literal["match", "verified", "token"],
        Meta(description="any match, one that answered the command 'verify' (1:1), or one with the bearer's token"),
    ] = "match"
    single_use: Annotated[
        bool, Meta(description="with 'when: token': each token opens this once at this unit, true or false")
    ] = False
    zone: Annotated[Name | None, Meta(description="the activation's name, or none for anywhere")] = None
    liveness: Annotated[
        Literal["passed", "unchecked: a photograph opens it"],
        Meta(description="'passed', or in these words that nobody checks: \"unchecked: a photograph opens it\""),
    ] = "passed"
    cooldown_s: Annotated[
        int,
        Meta(ge=5, le=MAX_COOLDOWN_S, description="how long the same person then waits, 5 s to a week (604800)"),
    ] = 10


Inputs = Annotated[
    tuple[WindowInput, ...],
    Meta(min_length=1, max_length=MAX_INPUTS, description="what opens the window: gpio, key, command, token or scene"),
]
Outputs = Annotated[
    tuple[GpioOutput | EventOutput | OsdpOutput, ...],
    Meta(max_length=MAX_OUTPUTS, description="what can be opened: up to 8, of kind gpio, event or osdp"),
]
Rules = Annotated[tuple[Rule, ...], Meta(max_length=MAX_RULES, description="what a match opens: up to 16 rules")]
