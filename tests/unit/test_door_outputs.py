# SPDX-License-Identifier: Apache-2.0
"""Outputs are off at the start and in the end, a pulse ends by itself, all who are refused see the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.clock import SimulatedClock
from agent.door.acts import REOPEN_NS, Inputs, Press, Request, ScenePresses
from agent.door.feedback import AGAIN_NS, GRANTED_NS, TEXTS, WAIT_NS, Feedback, write_text
from agent.door.gpio import GpiodLines
from agent.door.lines import InputSpec, OutputSpec
from agent.door.outputs import MAX_PULSE_NS, Outputs, PulseSpec
from agent.errors import DeviceLostError, PosternError
from tools.lib.rig.board import Board, BoardLines, SocketLines, serve

CHIP = Path("/dev/gpiochip0")
STRIKE, BELL = OutputSpec(CHIP, 27, active_low=False), OutputSpec(CHIP, 22, active_low=True)
BUTTON = InputSpec(CHIP, 17, "pull_up", active_low=True, debounce_ms=20)
SECOND = 1_000_000_000


class Wired:
    """Outputs on a board, on a simulated clock."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        self.board = Board(lambda: self.clock.monotonic_ns() / 1e9)
        self.lines = BoardLines(self.board)
        self.problems: list[PosternError] = []
        specs = {"strike": PulseSpec(STRIKE, 3 * SECOND), "bell": PulseSpec(BELL, SECOND)}
        self.outputs = Outputs(specs, self.lines, clock=self.clock, on_problem=self.problems.append)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 50)):
            self.clock.advance(0.02)
            self.outputs.tick()

    def found(self) -> list[tuple[int, float, float | None]]:
        return [(one.line, one.on_s, one.off_s) for one in self.board.pulses]


@pytest.fixture
def wired() -> Wired:
    return Wired()


def test_nothing_is_on_at_the_start_and_a_pulse_has_its_length(wired: Wired) -> None:
    assert wired.found() == []
    assert wired.outputs.pulse("strike")
    wired.wait(2.9)
    assert wired.found() == [(27, 0.0, None)]
    wired.wait(0.2)
    assert [(line, on, round(off or 0, 2)) for line, on, off in wired.found()] == [(27, 0.0, 3.0)]


def test_a_pulse_on_a_line_that_is_on_makes_it_no_longer(wired: Wired) -> None:
    wired.outputs.pulse("strike")
    wired.wait(2)
    assert wired.outputs.pulse("strike")
    wired.wait(5)
    assert len(wired.found()) == 1
    assert wired.found()[0][2] == pytest.approx(3.0, abs=0.03)


def test_a_stop_in_the_middle_of_a_pulse_switches_it_off(wired: Wired) -> None:
    wired.outputs.pulse("strike")
    wired.outputs.pulse("bell")
    wired.outputs.close()
    assert all(off is not None for _, _, off in wired.found())
    assert not wired.outputs.pulse("strike"), "and nothing goes on any more"
    BoardLines(wired.board).open_output(STRIKE).close()  # it was let go of


def test_no_pulse_is_longer_than_a_minute() -> None:
    with pytest.raises(ValueError, match="at most 60 seconds"):
        PulseSpec(STRIKE, MAX_PULSE_NS + 1)


def test_a_line_that_is_taken_is_one_sentence_and_no_other_is_held(wired: Wired) -> None:
    specs = {"free": PulseSpec(OutputSpec(CHIP, 5, active_low=False), SECOND), "strike": PulseSpec(STRIKE, SECOND)}
    with pytest.raises(DeviceLostError, match="line 27 cannot be used"):
        Outputs(specs, wired.lines, clock=wired.clock, on_problem=wired.problems.append)
    wired.lines.open_output(OutputSpec(CHIP, 5, active_low=False)).close()


def test_a_line_of_a_process_that_died_is_off_once_another_one_takes_it(tmp_path: Path) -> None:
    board = Board(lambda: 0.0)
    with serve(board, tmp_path / "board"):
        lines = SocketLines(tmp_path / "board")
        strike = lines.open_output(STRIKE)
        strike.set(on=True)
        assert [one.off_s for one in board.pulses] == [None]
        strike._socket.close()  # what the kernel does for a dead process
        for _ in range(100):
            try:
                lines.open_output(STRIKE).close()
                break
            except DeviceLostError:
                continue
        assert [one.off_s for one in board.pulses] == [0.0]


# -- inputs ------------------------------------------------------------------------------------------


def test_a_press_is_heard_once_and_is_an_act_on_the_spot(wired: Wired) -> None:
    inputs = Inputs([lambda: wired.lines.open_input(BUTTON)], clock=wired.clock, on_problem=wired.problems.append)
    assert inputs.look() is None
    wired.board.press(17)
    wired.board.press(17)
    assert inputs.look() == Press(on_the_spot=True)
    assert inputs.look() is None


def test_a_request_opens_the_window_and_is_no_act_on_the_spot(wired: Wired) -> None:
    request = Request()
    inputs = Inputs([lambda: request], clock=wired.clock, on_problem=wired.problems.append)
    request.ask()
    assert inputs.look() == Press(on_the_spot=False)
    assert inputs.look() is None


def test_the_presses_of_a_scene_come_at_their_times(wired: Wired) -> None:
    presses = ScenePresses([2.0, 0.5], wired.clock)
    heard = []
    for _ in range(30):
        heard.append(presses.pressed())
        wired.clock.advance(0.1)
    assert [number for number, one in enumerate(heard) if one] == [5, 20]


class Loose:
    """A button that is unplugged and comes back."""

    on_the_spot = True

    def __init__(self, plugged: list[bool]) -> None:
        self._plugged = plugged
        if not plugged[0]:
            raise DeviceLostError("it is not plugged in")

    def pressed(self) -> bool:
        if not self._plugged[0]:
            raise DeviceLostError("it was pulled out")
        return True

    def close(self) -> None:
        return None


def test_a_button_that_is_pulled_out_is_told_and_opened_again_when_it_is_back(wired: Wired) -> None:
    plugged = [True]
    inputs = Inputs([lambda: Loose(plugged)], clock=wired.clock, on_problem=wired.problems.append)
    assert inputs.look() == Press(on_the_spot=True)
    plugged[0] = False
    assert inputs.look() is None
    wired.clock.advance(REOPEN_NS / 1e9)
    assert inputs.look() is None
    assert [str(one) for one in wired.problems] == ["it was pulled out", "it is not plugged in"]
    plugged[0] = True
    assert inputs.look() is None, "not at once"
    wired.clock.advance(REOPEN_NS / 1e9)
    assert inputs.look() == Press(on_the_spot=True)


def test_a_button_that_is_missing_at_the_start_is_an_error(wired: Wired) -> None:
    with pytest.raises(DeviceLostError):
        Inputs([lambda: Loose([False])], clock=wired.clock, on_problem=wired.problems.append)


@pytest.mark.parametrize("chip", ["/dev/gpiochip-that-is-not", "/dev/null", "/proc/version"])
def test_the_real_library_says_in_one_sentence_that_a_chip_is_none(chip: str) -> None:
    pytest.importorskip("gpiod")
    for take in (
        lambda: GpiodLines().open_output(OutputSpec(Path(chip), 27, active_low=False)),
        lambda: GpiodLines().open_input(InputSpec(Path(chip), 17, "pull_up", active_low=True, debounce_ms=20)),
    ):
        with pytest.raises(DeviceLostError, match=f"of {chip} cannot be used: .*: "):
            take()


# -- what people see ---------------------------------------------------------------------------------


class Lamp:
    def __init__(self, shown: list[str], name: str) -> None:
        self._shown, self._name = shown, name

    def set(self, *, on: bool) -> None:
        self._shown.append(f"{self._name} {'on' if on else 'off'}")

    def close(self) -> None:
        self._shown.append(f"{self._name} closed")


class Display:
    def __init__(self, text: Path) -> None:
        self.clock, self.shown, self.text = SimulatedClock(), [], text
        lights = {"wait": [Lamp(self.shown, "wait")], "granted": [Lamp(self.shown, "granted")]}
        self.feedback = Feedback(
            lights, text, press=False, clock=self.clock, on_problem=lambda error: pytest.fail(str(error))
        )

    def play(self, seconds: float, *, acting: bool, granted_at: float | None = None) -> list[str]:
        texts = []
        for step in range(round(seconds * 10)):
            self.clock.advance(0.1)
            if acting:
                self.feedback.acting()
            if granted_at is not None and step == round(granted_at * 10):
                self.feedback.granted()
            self.feedback.tick()
            texts.append(self.text.read_text().strip())
        return texts


@pytest.fixture
def display(tmp_path: Path) -> Display:
    return Display(tmp_path / "display")


def seen(texts: list[str]) -> list[str]:
    return [one for one, before in zip(texts, ["", *texts], strict=False) if one != before]


def test_who_is_let_in_sees_so_and_then_nothing_more(display: Display) -> None:
    texts = display.play(20, acting=True, granted_at=1)
    assert seen(texts) == [TEXTS["wait"], TEXTS["granted"], TEXTS["ready"]]
    assert texts.count(TEXTS["granted"]) == GRANTED_NS / 1e8


def test_who_is_not_let_in_waits_for_the_same_time_whoever_it_is(display: Display) -> None:
    """A match that opens nothing says nothing to the feedback: it cannot differ from a stranger."""
    texts = display.play(20, acting=True)
    assert seen(texts) == [TEXTS["wait"], TEXTS["again"], TEXTS["ready"]]
    assert texts.count(TEXTS["wait"]) == WAIT_NS / 1e8
    assert texts.count(TEXTS["again"]) == AGAIN_NS / 1e8


def test_passers_by_change_nothing(display: Display) -> None:
    assert seen(display.play(20, acting=False)) == [TEXTS["ready"]]
    assert display.shown == []


def test_the_next_person_waits_anew(display: Display) -> None:
    display.play(10, acting=True)
    display.play(2, acting=False)
    assert seen(display.play(2, acting=True)) == [TEXTS["wait"]]


def test_lamps_go_off_and_are_let_go(display: Display) -> None:
    display.play(1, acting=True)
    display.feedback.close()
    assert display.shown == ["wait on", "wait off", "wait closed", "granted closed"]


def test_a_challenge_is_shown_and_one_that_failed_ends_as_everything_else_does(tmp_path: Path) -> None:
    display = Display(tmp_path / "text")
    assert display.play(6, acting=True)[-1] == TEXTS["again"]
    display.feedback.guide("left")
    assert set(display.play(9, acting=False)) == {TEXTS["left"]}
    display.feedback.guide(None)
    after = display.play(8, acting=False)
    assert list(dict.fromkeys(after)) == [TEXTS["wait"], TEXTS["again"], TEXTS["ready"]]


def test_a_display_program_of_another_user_may_read_the_text_whatever_the_services_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)  # as in postern.service
    try:
        write_text(tmp_path / "display", TEXTS["ready"])
    finally:
        os.umask(before)
    assert (tmp_path / "display").stat().st_mode & 0o777 == 0o644
