# SPDX-License-Identifier: Apache-2.0
"""Which lines, controllers and buttons a unit's configuration means, each with all that is said of it."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.clock import SimulatedClock
from agent.detect.gate import ButtonGate, FaceLimits, ZoneGate
from agent.door.acts import Request
from agent.door.lines import InputSpec, OutputSpec
from agent.door.on_the_spot import ButtonAct, MovesAct
from agent.door.osdp import PanelSpec
from agent.door.outputs import PulseSpec
from agent.errors import DeviceLostError
from agent.unit.at_the_door import (
    _by_shown,
    asks_for_moves,
    buttons,
    lights,
    make_gate,
    make_input,
    make_spot_act,
    panels,
    pulses,
    reads_tokens,
    rights_path,
    switch_off,
    takes_requests,
)
from tests.simulators.config import configured, example

GPIO = {"kind": "gpio", "chip": "/dev/gpiochip0", "line": 17}
KEY = {"kind": "key", "device": "/dev/input/event3", "key": "KEY_ENTER"}
COMMAND = {"kind": "command"}
TOKEN = {"kind": "token"}


def button(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "button", "name": "door", "inputs": list(inputs), **more}


def test_the_gate_is_what_the_activation_says() -> None:
    zone = {**example()["activation"], "min_face_px": 91, "max_turn_degrees": 17.5, "dwell_ms": 640}
    shown = configured(activation=zone)
    gate = make_gate(shown)
    assert isinstance(gate, ZoneGate)
    assert vars(gate) == vars(
        ZoneGate(
            zone="entrance",
            polygon=shown.activation.polygon,  # type: ignore[union-attr]
            limits=FaceLimits(91, 17.5),
            dwell_ns=640_000_000,
        )
    )
    pressed = make_gate(configured(activation=button(COMMAND, window_s=7, min_face_px=91, max_turn_degrees=17.5)))
    assert isinstance(pressed, ButtonGate)
    assert vars(pressed) == vars(ButtonGate(zone="door", window_ns=7_000_000_000, limits=FaceLimits(91, 17.5)))
    assert rights_path(shown) == shown.outbox.path.parent / "rights.db"


def test_buttons_have_the_names_of_their_places_and_tokens_are_none() -> None:
    config = configured(
        activation=button(GPIO, TOKEN, COMMAND, window_s=30), enrolment={"button": KEY}, liveness="require"
    )
    assert [name for name, _ in buttons(config)] == ["activation.inputs[0]", "activation.inputs[2]", "enrolment.button"]
    assert takes_requests(config)
    assert reads_tokens(config)
    plain = configured()
    assert buttons(plain) == []
    assert not takes_requests(plain)
    assert not reads_tokens(plain)
    assert not reads_tokens(configured(activation=button(COMMAND)))


@pytest.mark.parametrize(
    ("sections", "moves"),
    [
        ({}, True),
        ({"activation": button(COMMAND)}, True),
        ({"activation": button(GPIO)}, False),
        ({"activation": button(GPIO, COMMAND)}, False),
        ({"enrolment": {"button": KEY}}, False),
    ],
)
def test_who_enrols_turns_their_head_where_no_button_is_theirs_alone(sections: dict[str, Any], *, moves: bool) -> None:
    config = configured(**sections)
    assert asks_for_moves(config) == moves
    assert isinstance(make_spot_act(config, secrets.token_bytes), MovesAct if moves else ButtonAct)


class Opened:
    """The lines of a board, as they are asked for."""

    def __init__(self, taken: object = None) -> None:
        self.asked: list[object] = []
        self.closed = 0
        self._taken = taken

    def open_input(self, spec: InputSpec) -> object:
        self.asked.append(spec)
        return spec

    def open_key(self, device: Path, key: str) -> object:
        self.asked.append((device, key))
        return key

    def open_output(self, spec: OutputSpec) -> Any:
        self.asked.append(spec)
        if spec.line == self._taken:
            raise DeviceLostError("somebody else has it")
        return SimpleNamespace(close=self._close)

    def _close(self) -> None:
        self.closed += 1


def test_each_input_is_opened_with_all_that_is_said_of_it() -> None:
    gpio = {**GPIO, "bias": "pull_down", "active_low": False, "debounce_ms": 55}
    config = configured(activation=button(gpio, KEY, COMMAND))
    lines, request = Opened(), Request()
    made = [make_input(config, one, cast("Any", lines), SimulatedClock(), request) for _, one in buttons(config)]
    assert lines.asked == [
        InputSpec(Path("/dev/gpiochip0"), 17, "pull_down", active_low=False, debounce_ms=55),
        (Path("/dev/input/event3"), "KEY_ENTER"),
    ]
    assert made[2] is request


def test_outputs_lights_and_controllers_are_what_the_file_says(tmp_path: Path) -> None:
    key = tmp_path / "panel.key"
    key.touch(mode=0o600)
    key.write_text("00112233445566778899aabbccddeeff")
    osdp = {"kind": "osdp", "device": "/dev/ttyUSB7", "key_file": str(key), "address": 9, "baud": 57_600}
    config = configured(
        outputs=[
            {
                "name": "strike",
                "kind": "gpio",
                "chip": "/dev/gpiochip0",
                "line": 5,
                "active_low": True,
                "pulse_ms": 1500,
            },
            {"name": "gate", "kind": "event"},
            {"name": "panel", **osdp},
        ],
        rules=[{"name": "staff", "then": ["strike", "gate", "panel"]}],
        liveness="require",
        feedback={
            "granted": {"chip": "/dev/gpiochip1", "line": 1, "active_low": True},
            "wait": {"chip": "/dev/gpiochip1", "line": 2},
            "look": {"chip": "/dev/gpiochip1", "line": 3},
        },
    )
    strike = OutputSpec(Path("/dev/gpiochip0"), 5, active_low=True, longest_ms=1500)
    assert pulses(config) == {"strike": PulseSpec(strike, 1_500_000_000)}
    (name, panel), *others = panels(config).items()
    assert others == []
    assert name == "panel"
    assert panel == PanelSpec(Path("/dev/ttyUSB7"), 9, 57_600, bytes.fromhex("00112233445566778899aabbccddeeff"))
    chip = Path("/dev/gpiochip1")
    assert lights(config) == {
        "granted": OutputSpec(chip, 1, active_low=True),
        "wait": OutputSpec(chip, 2, active_low=False),
        "look": OutputSpec(chip, 3, active_low=False),
    }
    lines = Opened(taken=2)
    assert switch_off(config, cast("Any", lines)) == ["wait: somebody else has it"]
    assert lines.asked == [strike, *lights(config).values()]
    assert lines.closed == 3
    assert lights(configured()) == {}
    assert pulses(configured()) == {}


def test_each_light_is_on_while_what_it_stands_for_is_shown() -> None:
    granted, wait, look = (cast("Any", object()) for _ in range(3))
    assert _by_shown({}) == {}
    assert _by_shown({"granted": granted, "wait": wait, "look": look}) == {
        "granted": [granted],
        "wait": [wait],
        **{shown: [look] for shown in ("press", "front", "left", "right", "up", "down")},
    }
