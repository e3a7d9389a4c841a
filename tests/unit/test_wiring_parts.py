# SPDX-License-Identifier: Apache-2.0
"""What a unit puts together takes what is there, and leaves nothing open where one of its parts cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.door.lines import Input, InputSpec, Lines, OutputLine, OutputSpec
from agent.door.osdp import PanelSpec
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.errors import DeviceLostError, KeyStoreError, PosternError
from agent.mqtt.credentials import Credentials
from agent.unit import assemble, at_the_door
from agent.unit.tokens import load_token_list
from tests.simulators.config import configured, example
from tests.simulators.token_desk import GATE, MODEL, TokenDesk

CHIP = Path("/dev/gpiochip0")
BUTTON: dict[str, Any] = {"kind": "gpio", "chip": str(CHIP), "line": 5}
OPENS = {"name": "staff", "liveness": "unchecked: a photograph opens it"}


def button_at(*inputs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"kind": "button", "name": "entrance", "inputs": list(inputs), **changes}


def test_each_file_of_the_session_is_the_key_folders_but_for_one_that_is_named(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    own = {"ca": keys / "ca.crt", "certificate": keys / "tls.crt", "key": keys / "tls.key"}
    for named in ({}, *({name: str(tmp_path / name)} for name in own)):
        broker = {**example()["broker"], "tls": named}
        config = configured(tmp_path, broker=broker, keys={"folder": str(keys)})
        expected = own | {name: Path(path) for name, path in named.items()}
        assert assemble.credentials_of(config) == Credentials(**expected, revoked=keys / "brokers.crl")


def test_a_token_is_taken_by_the_settled_time_and_not_of_somebody_who_was_erased(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = TokenDesk(tmp_path)
    stores: Any = SimpleNamespace(ageing=SimpleNamespace(latest=desk.clock.now), gallery=SimpleNamespace())
    stores.gallery.tombstones = tuple
    config = desk.config(GATE)
    check = assemble.make_token_check(config, MODEL, stores, desk.clock)
    assert check is not None
    assert (check.config, check.model, check.clock) == (config, MODEL, desk.clock)
    assert check.latest == desk.clock.now
    assert check.tombstones is tuple
    assert caplog.messages == []
    desk.office.keys(GATE).token_key.unlink()
    with caplog.at_level(logging.WARNING):
        assert assemble.make_token_check(config, MODEL, stores, desk.clock) is not None
    (said,) = caplog.messages
    assert said.startswith("this unit has no key of tokens: ")
    assert assemble.make_token_check(configured(tmp_path), MODEL, stores, desk.clock) is None
    assert assemble._token_list_end(configured(tmp_path)) is None
    ends = assemble._token_list_end(config)
    assert ends is not None
    assert f"{ends:%Y-%m-%dT%H:%M:%SZ}" == load_token_list(desk.office.keys(GATE), site="hq").expires_at


def test_a_consumers_key_that_is_none_is_named(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert assemble.make_seal(config) is None
    path = tmp_path / "consumer.jwk"
    path.write_bytes(b"{")
    sealed = configured(tmp_path, events={**example()["events"], "consumer_key": str(path), "subject": "sealed"})
    with pytest.raises(KeyStoreError) as refusal:
        assemble.make_seal(sealed)
    assert str(refusal.value) == f"{path} is no public key: export it again at the consumer"


class Board:
    """Lines and keys that keep what was asked for; ``lost`` are lines that cannot be had."""

    def __init__(self, *lost: int) -> None:
        self.lost = lost
        self.opened: list[object] = []
        self.closed: list[object] = []

    def open_input(self, spec: InputSpec) -> Input:
        return cast("Input", self._one(spec, spec.line))

    def open_key(self, device: Path, key: str) -> Input:
        return cast("Input", self._one((device, key), -1))

    def open_output(self, spec: OutputSpec) -> OutputLine:
        return cast("OutputLine", self._one(spec, spec.line))

    def _one(self, what: object, line: int) -> object:
        if line in self.lost:
            raise DeviceLostError(f"line {line} is taken")
        self.opened.append(what)
        return SimpleNamespace(
            on_the_spot=True, pressed=lambda: False, set=lambda **_: None, close=lambda: self.closed.append(what)
        )

    @property
    def lines(self) -> Lines:
        return cast("Lines", self)


def lamps(folder: Path) -> Config:
    feedback = {name: {"chip": str(CHIP), "line": line} for name, line in (("granted", 7), ("wait", 8), ("look", 9))}
    feedback["wait"] |= {"active_low": True}
    outputs = [
        {"name": "strike", "kind": "gpio", "chip": str(CHIP), "line": 4, "pulse_ms": 2500, "active_low": True},
        {"name": "hub", "kind": "event"},
    ]
    rules = [{**OPENS, "then": ["strike", "hub"]}]
    sections = {"outputs": outputs, "rules": rules, "feedback": feedback, "activation": button_at(BUTTON)}
    return configured(folder, **sections)


LAMPS = {
    "granted": OutputSpec(CHIP, 7, False),
    "wait": OutputSpec(CHIP, 8, True),
    "look": OutputSpec(CHIP, 9, False),
}
STRIKE = OutputSpec(CHIP, 4, True, longest_ms=2500)


def test_every_line_is_switched_off_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    config = lamps(tmp_path)
    board = Board()
    assert at_the_door.switch_off(config, board.lines) == []
    assert board.opened == board.closed == [STRIKE, *LAMPS.values()]
    board = Board(4, 8)
    assert at_the_door.switch_off(config, board.lines) == ["strike: line 4 is taken", "wait: line 8 is taken"]
    assert board.closed == [LAMPS["granted"], LAMPS["look"]], "the others are off"


class Panels:
    """Controllers that keep what they were opened with."""

    def __init__(self) -> None:
        self.opened: list[PanelSpec] = []
        self.closed = 0

    def open_panel(self, spec: PanelSpec, clock: object, on_problem: object) -> Any:
        self.opened.append(spec)
        assert clock is not None
        assert callable(on_problem)

        def close() -> None:
            self.closed += 1

        return SimpleNamespace(close=close, granted=lambda: False)


def controller(folder: Path) -> dict[str, Any]:
    path = folder / "panel.key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    path.chmod(0o600)
    osdp = {"name": "panel", "kind": "osdp", "device": "/dev/serial/by-id/x", "address": 3, "baud": 38400}
    return {**osdp, "key_file": str(path), "card": "0011223344556677"}


@pytest.mark.parametrize("lost", [8, 5, 6])
def test_a_door_that_cannot_have_one_of_its_lines_lets_go_of_all_others(tmp_path: Path, lost: int) -> None:
    panel = controller(tmp_path)
    outputs = [panel, {"name": "strike", "kind": "gpio", "chip": str(CHIP), "line": 4, "pulse_ms": 2500}]
    feedback = {name: {"chip": str(CHIP), "line": line} for name, line in (("granted", 7), ("wait", 8))}
    config = configured(
        tmp_path,
        outputs=outputs,
        rules=[{**OPENS, "then": ["strike", "panel"]}],
        feedback=feedback,
        activation=button_at(BUTTON),
        enrolment={"button": {**BUTTON, "line": 6}},
    )
    board, to_panels, clock = Board(lost), Panels(), SimulatedClock()
    problems: list[PosternError] = []
    with Rights(tmp_path / "rights.db", clock) as rights, pytest.raises(DeviceLostError):
        at_the_door.Door(
            config,
            at_the_door.make_gate(config),
            rights,
            board.lines,
            clock=clock,
            verification=Verification(clock, lambda *_: None),
            to_panels=to_panels,
            on_problem=problems.append,
        )
    assert len(to_panels.opened) == to_panels.closed == 1
    assert sorted(map(str, board.opened)) == sorted(map(str, board.closed))
    assert spec_lines(board.opened) >= {4}


def spec_lines(opened: Sequence[object]) -> set[int]:
    return {one.line for one in opened if isinstance(one, InputSpec | OutputSpec)}
