# SPDX-License-Identifier: Apache-2.0
"""A line that is taken, a chip that is missing, a rule that names nothing: one sentence each, before the start."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
import yaml

from agent.cli import main
from agent.clock import SimulatedClock, SystemClock
from agent.config.schema import Config
from agent.door.feedback import TEXTS
from agent.door.gpio import line_problem
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.errors import ConfigError, DeviceLostError, RefusedError
from agent.unit.assemble import make_token_check
from agent.unit.at_the_door import Door, make_gate, switch_off
from agent.unit.doctor import check_inputs, examine
from agent.unit.wiring import Machine, absent, unknown_keys
from tests.simulators.config import parse_config
from tools.lib.rig.board import Board, BoardLines, line_of

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "config.example.yaml").read_text())
CHIP = "/dev/gpiochip0"
STRIKE = {"name": "strike", "kind": "gpio", "chip": CHIP, "line": 27}
STAFF = {"name": "staff", "then": ["strike"], "liveness": "unchecked: a photograph opens it"}
BUTTON = {"kind": "gpio", "chip": CHIP, "line": 17}

KEYBOARD, ENTER = "/dev/input/by-id/usb-button-event-kbd", "KEY_ENTER"
KEY = {"kind": "key", "device": KEYBOARD, "key": ENTER}
WHAT = ("GPIO chip", "input device", "GPIO chip")  # in the order in which they are told


def config(**changes: Any) -> Config:
    return parse_config(yaml.safe_dump(BASE | changes).encode(), Path("unit.yaml"))


def button(*inputs: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "button", "name": "entrance", "inputs": list(inputs)}


TOKENS = {"activation": button({"kind": "token"}) | {"window_s": 60}, "liveness": "require"}
ALL = frozenset({"gpiod", "evdev", "osdp", "zxingcpp", "cbor2"})
CODES = {"KEY_ENTER": 28, "KEY_A": 30, "BTN_TRIGGER_HAPPY1": 704, "ABS_X": 0}


def machine_of(folder: Path, *, libraries: frozenset[str] = frozenset(), keys: str | None = None) -> Machine:
    """One on which /dev/null is any device; as a button it has ``keys``, as the kernel writes them."""
    status = Path("/dev/null").stat()
    entry = folder / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    (entry / "device" / "capabilities").mkdir(parents=True)
    if keys is not None:
        (entry / "device" / "capabilities" / "key").write_text(f"{keys}\n")
    return Machine(libraries, CODES if "evdev" in libraries else None, folder, line_problem=lambda *_: None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"rules": [STAFF]},
            r"rules\[0\].then\[0\]: there is no output 'strike'; there are: none, add it under 'outputs'",
        ),
        ({"outputs": [STRIKE]}, r"outputs\[0\]: no rule opens 'strike': name it in a rule's 'then', or leave it out"),
        (
            {"outputs": [STRIKE], "rules": [STAFF | {"zone": "cellar"}]},
            r"rules\[0\].zone: there is no such zone: the activation's name is 'entrance'",
        ),
        (
            {"outputs": [STRIKE], "rules": [STAFF, {**STAFF, "then": ["strike"]}]},
            r"rules\[1\].name: there is another rule 'staff'",
        ),
        ({"outputs": [STRIKE, STRIKE | {"line": 5}], "rules": [STAFF]}, r"outputs\[1\].name: there is another output"),
        (
            {"outputs": [STRIKE], "rules": [STAFF], "feedback": {"wait": {"chip": CHIP, "line": 27}}},
            r"feedback.wait: uses the same line as outputs\[0\]",
        ),
        ({"activation": button(BUTTON, {**BUTTON})}, r"inputs\[1\]: uses the same line as activation.inputs\[0\]"),
        ({"activation": button()}, r"activation.inputs: .*what opens the window"),
        ({"activation": button({"kind": "bell"})}, r"activation.inputs\[0\].kind: expected one of .*gpio"),
        ({"activation": button(BUTTON | {"bias": "up"})}, r"activation.inputs\[0\].bias: expected one of .*pull_up"),
        ({"activation": button({"kind": "key", "device": "/dev/x", "key": "enter"})}, r"inputs\[0\].key: .*KEY_ENTER"),
        ({"activation": button({"kind": "scene"})}, r"inputs\[0\]: is the button of a simulated scene"),
        ({"enrolment": {"button": {"kind": "scene"}}}, "enrolment.button: is the button of a simulated scene"),
        ({"enrolment": {"button": {"kind": "command"}}}, "enrolment.button.kind: expected one of gpio, key, scene"),
        ({"outputs": [STRIKE], "rules": [STAFF | {"liveness": "no"}]}, r"rules\[0\].liveness: .*a photograph opens it"),
        ({"outputs": [STRIKE], "rules": [STAFF | {"cooldown_s": 1}]}, r"rules\[0\].cooldown_s: .*5 s to a week"),
        ({"outputs": [STRIKE | {"pulse_ms": 0}], "rules": [STAFF]}, r"outputs\[0\].pulse_ms: .*50 to 60000 ms"),
        ({"outputs": [STRIKE], "rules": [STAFF | {"unless": "x"}]}, r"rules\[0\].unless: unknown key"),
    ],
)
def test_what_the_file_gets_wrong_is_one_sentence_with_its_line(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"unit.yaml:\d+: .*" + sentence) as refusal:
        config(**changes)
    assert len(str(refusal.value).splitlines()) == 1


def test_check_config_refuses_what_this_machine_has_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chip = str(tmp_path / "gpiochip7")
    changes = {
        "activation": button(
            {"kind": "gpio", "chip": chip, "line": 17}, {"kind": "key", "device": chip, "key": "KEY_A"}
        ),
        "outputs": [STRIKE | {"chip": chip}],
        "rules": [STAFF],
    }
    file = tmp_path / "unit.yaml"
    file.write_text(yaml.safe_dump(BASE | changes))
    assert main(["check-config", str(file)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert all(chip in line for line in told)
    assert main(["check-config", "--elsewhere", str(file)]) == 0
    said = capsys.readouterr().out
    assert "strike for a match, once in 10 s a person, UNCHECKED: A PHOTOGRAPH OPENS IT" in said
    assert "who consented, by command or here, and presses the button" in said


@pytest.mark.parametrize("kind", ["a file", "another device"])
def test_check_config_refuses_what_is_no_chip_and_no_button(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """A path that is there and is something else: it was found only when the line was opened."""
    there = tmp_path / "gpiochip0" if kind == "a file" else Path("/dev/null")
    if kind == "a file":
        there.touch()
    changes = {
        "activation": button(BUTTON | {"chip": str(there)}, KEY | {"device": str(there)}),
        "outputs": [STRIKE | {"chip": str(there)}],
        "rules": [STAFF],
    }
    file = tmp_path / "unit.yaml"
    file.write_text(yaml.safe_dump(BASE | changes))
    assert main(["check-config", str(file)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(f"there is no {what} {there}")[1] != "" for line, what in zip(told, WHAT, strict=True)] == [
        True
    ] * 3


def test_a_rule_without_liveness_is_told_in_capitals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "unchecked: a photograph opens it"
    rules = [{"name": "staff", "then": ["gate"], "liveness": words}]
    file = tmp_path / "unit.yaml"
    file.write_text(yaml.safe_dump(BASE | {"outputs": [{"name": "gate", "kind": "event"}], "rules": rules}))
    assert main(["check-config", str(file)]) == 0
    assert "UNCHECKED: A PHOTOGRAPH OPENS IT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("pad", "reason"),
    [("nothing", "has no model 'nothing'"), ("landmarks", "is a model for 'landmarks': name one for 'pad'")],
)
def test_check_config_refuses_a_liveness_network_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pad: str, reason: str
) -> None:
    manifest = Path(__file__).parents[2] / "models" / "manifest.yaml"
    checked = {"liveness": "require", "liveness_parts": ["challenge", "passive"]}
    file = tmp_path / "unit.yaml"
    file.write_text(yaml.safe_dump(BASE | checked | {"models": {"manifest": str(manifest), "pad": pad}}))
    assert main(["check-config", str(file)]) != 0
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "models.pad" in told
    assert reason in told


def test_a_unit_whose_line_is_taken_does_not_start_and_holds_nothing(tmp_path: Path) -> None:
    clock = SimulatedClock()
    board = Board(lambda: 0.0)
    lines = BoardLines(board)
    shown = config(activation=button(BUTTON), outputs=[STRIKE], rules=[STAFF])
    board.take(17)  # by somebody else
    with Rights(tmp_path / "rights.db", clock) as rights:

        def door() -> Door:
            verification = Verification(clock, lambda *_: None)
            gate = make_gate(shown)
            return Door(shown, gate, rights, lines, clock=clock, verification=verification, on_problem=pytest.fail)

        with pytest.raises(DeviceLostError, match="line 17 cannot be used: another program or driver holds it"):
            door()
        board.release(17)
        door().close()
    assert board.pulses == []


def test_door_off_switches_every_line_off_and_tells_which_it_cannot_take(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(lambda: 0.0)
    light = {"chip": CHIP, "line": 22}
    shown = config(outputs=[STRIKE], rules=[STAFF], feedback={"granted": light})
    assert switch_off(shown, BoardLines(board)) == []
    board.take(22)
    assert switch_off(shown, BoardLines(board)) == [
        "granted: line 22 cannot be used: another program or driver holds it"
    ]


def test_a_display_whose_folder_is_missing_is_told_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, display = tmp_path / "unit.yaml", tmp_path / "no-folder" / "display"
    file.write_text(yaml.safe_dump(BASE | {"feedback": {"text": str(display)}}))
    assert main(["check-config", str(file)]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"feedback.text: there is no folder {display.parent}: name a file in /run/postern" in told


@pytest.mark.parametrize("there", ["a folder", "a file of something else"])
def test_a_display_that_is_something_else_is_told_before_the_start(tmp_path: Path, there: str) -> None:
    """The unit left it alone, and showed nobody anything."""
    place = tmp_path / "gallery.db"
    place.mkdir() if there == "a folder" else place.write_bytes(b"SQLite format 3\0")
    (told,) = absent(config(feedback={"text": str(place)}), machine_of(tmp_path / "devices"))
    assert told.startswith(f"feedback.text: {place} holds no text of a display: name another file")
    for text in ("ready\n", TEXTS["again"]):
        display = tmp_path / "display"
        display.write_text(text)
        assert absent(config(feedback={"text": str(display)}), Machine(frozenset(), None)) == []


def test_doctor_tries_the_display(tmp_path: Path) -> None:
    display = tmp_path / "run" / "display"
    shown = parse_config(
        yaml.safe_dump(
            BASE | {"feedback": {"text": str(display)}, "gallery": {**BASE["gallery"], "path": str(tmp_path / "g.db")}}
        ).encode(),
        tmp_path / "unit.yaml",
    )
    assert [one.state for one in examine("outputs", shown, SystemClock())] == ["ok", "fault"]
    display.parent.mkdir()
    assert [one.state for one in examine("outputs", shown, SystemClock())] == ["ok"]
    assert display.read_text().strip() == TEXTS["ready"]


def test_nothing_is_absent_where_nothing_is_named() -> None:
    bare = Machine(frozenset(), None)
    assert absent(config(), bare) == []
    assert absent(config(activation=button({"kind": "command"})), bare) == []


@pytest.mark.parametrize(
    ("changes", "library"),
    [
        ({"activation": button(BUTTON | {"chip": "/dev/null"})}, "gpiod"),
        ({"outputs": [STRIKE | {"chip": "/dev/null"}], "rules": [STAFF]}, "gpiod"),
        ({"feedback": {"wait": {"chip": "/dev/null", "line": 27}}}, "gpiod"),
        ({"activation": button(KEY | {"device": "/dev/null"})}, "evdev"),
        (TOKENS, "zxing-cpp"),
        (TOKENS, "cbor2"),
    ],
)
def test_a_library_that_is_missing_is_told_before_the_start(
    tmp_path: Path, changes: dict[str, Any], library: str
) -> None:
    """It was found only when the line was opened: by the doctor, or by a service that did not start."""
    (told,) = absent(config(**changes), machine_of(tmp_path, libraries=ALL - {library.replace("-", "")}))
    assert f"{library} is missing: " in told


def test_who_takes_tokens_does_not_start_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first code that has a token's layout, which anybody can draw, ended the service."""
    monkeypatch.setitem(sys.modules, "cbor2", None)
    with pytest.raises(RefusedError, match="apt install python3-cbor2"):
        make_token_check(config(**TOKENS), "embedder", None, SystemClock())  # type: ignore[arg-type]


class Chip:
    """What libgpiod tells of a chip that nobody takes a line of."""

    def __init__(self, path: str) -> None:
        if path == "/dev/mem":
            raise PermissionError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def get_info(self) -> SimpleNamespace:
        return SimpleNamespace(num_lines=8)

    def get_line_info(self, line: int) -> SimpleNamespace:
        consumer = {3: "led\x1b0", 4: "postern", 5: ""}.get(line, "")
        return SimpleNamespace(used=line in (3, 4, 5), consumer=consumer)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (7, None),
        (4, None),  # a running unit's own
        (8, "/dev/null has no line 8, only 0 to 7: name one that gpioinfo shows"),
        (3, "line 3 of /dev/null is held by led?0: free it, or name another line"),
        (5, "line 5 of /dev/null is held by a driver: free it, or name another line"),
    ],
)
def test_a_line_that_is_taken_or_is_none_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int, sentence: str | None
) -> None:
    """It was found only when the line was opened, which a unit that runs does for itself."""
    monkeypatch.setitem(sys.modules, "gpiod", SimpleNamespace(Chip=Chip))  # type: ignore[arg-type]
    machine = replace(machine_of(tmp_path, libraries=ALL), line_problem=line_problem)
    here = {"chip": "/dev/null", "line": line}
    for place, changes in {
        "activation.inputs[0].chip": {"activation": button(BUTTON | here)},
        "outputs: strike": {"outputs": [STRIKE | here], "rules": [STAFF]},
        "feedback.look": {"feedback": {"look": here}},
    }.items():
        assert absent(config(**changes), machine) == ([] if sentence is None else [f"{place}: {sentence}"])
    assert line_problem(Path("/dev/mem"), line) is None, "whoever may not look is told nothing"


@pytest.mark.parametrize(
    ("key", "keys", "has"),
    [
        ("KEY_ENTER", "10000000", True),  # bit 28
        ("KEY_A", "10000000", False),
        ("BTN_TRIGGER_HAPPY1", "1 0 0 0 0 0 0 0 0 0 0 10000000", True),  # bit 704: of the twelfth word
        ("BTN_TRIGGER_HAPPY1", "10000000", False),
    ],
)
def test_a_key_that_the_device_has_not_is_told_before_the_start(
    tmp_path: Path, key: str, keys: str, *, has: bool
) -> None:
    shown = config(activation=button({"kind": "key", "device": "/dev/null", "key": key}))
    told = absent(shown, machine_of(tmp_path, libraries=ALL, keys=keys))
    sentence = f"activation.inputs[0].key: /dev/null has no {key}: evtest shows what it has"
    assert told == ([] if has else [sentence])


@pytest.mark.parametrize(
    ("place", "section", "wrong"),
    [
        ("activation.inputs[0]", "activation", button(KEY | {"key": "KEY_ENTRE"})),
        ("enrolment.button", "enrolment", {"button": KEY | {"key": "KEY_ENTRE"}}),
    ],
)
def test_a_key_that_no_keyboard_has_is_told_with_the_nearest_before_the_start(
    tmp_path: Path, place: str, section: str, wrong: dict[str, Any]
) -> None:
    machine = machine_of(tmp_path, libraries=ALL)
    assert unknown_keys(config(**{section: wrong}), machine) == [
        f"{place}.key: there is no key KEY_ENTRE: the nearest is KEY_ENTER"
    ]
    assert unknown_keys(config(activation=button(KEY)), machine) == []
    nothing_like_it = config(activation=button(KEY | {"key": "BTN_0123456789"}))
    advice = "evtest shows what the button's is called"
    assert unknown_keys(nothing_like_it, machine)[0].endswith(f"there is no key BTN_0123456789: {advice}")


def test_doctor_says_in_one_sentence_that_a_button_and_a_line_are_missing(tmp_path: Path) -> None:
    chip = str(tmp_path / "gpiochip7")
    shown = config(activation=button(BUTTON | {"chip": chip}), outputs=[STRIKE | {"chip": chip}], rules=[STAFF])
    for check in ("inputs", "outputs"):
        (finding,) = examine(check, shown, SystemClock())
        assert finding.state == "fault"
        assert "cannot be used" in finding.text
        assert "running" not in finding.text, "nothing runs here"


PRESSED_NOW = {
    "activation.inputs[0]": ({"activation": button(BUTTON)}, 17),
    "activation.inputs[1]": ({"activation": button({"kind": "command"}, KEY)}, line_of(Path(KEYBOARD), ENTER)),
    "enrolment.button": ({"enrolment": {"button": BUTTON}}, 17),
    "console.button": (
        {"console": {"address": "127.0.0.1", "button": BUTTON}, "feedback": {"text": "/run/postern/display"}},
        17,
    ),
}


@pytest.mark.parametrize("pressed", [True, False])
@pytest.mark.parametrize("place", PRESSED_NOW)
def test_doctor_asks_for_each_button_and_hears_it(place: str, pressed: bool) -> None:
    changes, line = PRESSED_NOW[place]
    board, clock = Board(lambda: 0.0), SimulatedClock()
    told = check_inputs(config(**changes), clock, BoardLines(board))
    state, text = next(told)
    assert (state, text) == ("advice", f"{place}: press it now, within 15 s")
    if pressed:
        board.press(line)
    ((state, text),) = told
    assert (state, text.partition(": ")[0]) == ("ok" if pressed else "fault", place)
    board.take(line)  # it was let go of: the service needs it
