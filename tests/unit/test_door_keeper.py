# SPDX-License-Identifier: Apache-2.0
"""The process that holds the output lines: off in time, whatever becomes of the unit or of itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.door.keeper import AGAIN_NS, OK, Keeper
from agent.door.kept import KeptLines
from agent.door.lines import KeptLine, OutputLine, OutputSpec
from agent.door.outputs import Outputs, PulseSpec
from agent.errors import DeviceLostError, PosternError
from tests.simulators.keeper import children, served_board, until
from tools.lib.rig.board import Board, BoardLines, BoardOfAUnit, SocketLines

CHIP = Path("/dev/gpiochip0")
MS = 1_000_000
OPEN = "open 1 27 0 3000 /dev/gpiochip0"
MAX_KEEPER_KIB = 20 * 1024  # resident: Python, gpiod and what says an error; 14 to 15 MiB were seen


class Flaky:
    """A line that cannot be switched off for a while."""

    def __init__(self) -> None:
        self.on, self.stuck = False, False

    def set(self, *, on: bool) -> None:
        if self.stuck and not on:
            raise DeviceLostError("it does not answer")
        self.on = on

    def close(self) -> None:
        self.set(on=False)


@pytest.fixture
def line() -> Flaky:
    return Flaky()


@pytest.fixture
def keeper(line: Flaky) -> Keeper:
    keeper = Keeper(lambda _: line)
    assert keeper.obey(OPEN, 0) == OK
    return keeper


def test_a_pulse_ends_at_its_longest_time_whatever_the_unit_says(keeper: Keeper, line: Flaky) -> None:
    assert keeper.tick(0) is None
    assert keeper.obey("on 1", 0) == OK
    assert keeper.tick(0) == 3000 * MS
    assert keeper.obey("on 1", 2000 * MS) == OK, "and once more makes it no longer"
    assert keeper.tick(2999 * MS) == MS
    assert line.on
    assert keeper.tick(3000 * MS) is None
    assert not line.on


def test_a_line_that_does_not_go_off_is_tried_again(keeper: Keeper, line: Flaky) -> None:
    keeper.obey("on 1", 0)
    line.stuck = True
    assert keeper.obey("off 1", 0) == "it does not answer"
    assert keeper.tick(3000 * MS) == AGAIN_NS
    assert not keeper.all_off()
    line.stuck = False
    assert keeper.all_off()
    assert not line.on


def test_a_light_may_stay_on_until_the_end(line: Flaky) -> None:
    keeper = Keeper(lambda _: line)
    keeper.obey("open 1 27 1 0 /dev/gpiochip0", 0)
    keeper.obey("on 1", 0)
    assert keeper.tick(10**18) is None
    assert line.on
    assert keeper.all_off()
    assert not line.on


@pytest.mark.parametrize(
    "message", ["", "on", "on 2", "off 2", "close 2", "open 2", "open 2 x 0 0 /dev/null", "wave 3"]
)
def test_what_is_no_message_switches_nothing(keeper: Keeper, line: Flaky, message: str) -> None:
    assert keeper.obey(message, 0) != OK
    assert not line.on


def test_a_chip_in_a_folder_with_a_space_is_the_same_chip() -> None:
    taken: list[OutputSpec] = []

    def take(spec: OutputSpec) -> OutputLine:
        taken.append(spec)
        return Flaky()

    assert Keeper(take).obey("open 1 27 1 0 /dev/a b  c", 0) == OK
    assert taken == [OutputSpec(Path("/dev/a b  c"), 27, active_low=True)]


# -- the process -------------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[Board, Path]]:
    with served_board(tmp_path) as served:
        yield served


def test_a_unit_that_hangs_has_its_pulse_ended(board: tuple[Board, Path]) -> None:
    """Nothing of it runs: no thread, no tick."""
    wired, path = board
    lines = BoardOfAUnit(path)
    strike = lines.open_output(OutputSpec(CHIP, 27, active_low=False, longest_ms=300))
    strike.set(on=True)
    until(lambda: wired.pulses[0].off_s is not None)
    strike.close()
    assert wired.pulses[0].off_s is not None
    assert wired.pulses[0].off_s - wired.pulses[0].on_s == pytest.approx(0.3, abs=0.25)  # of a busy machine
    assert len(wired.pulses) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGABRT])
def test_what_the_service_manager_sends_switches_off_at_once_and_the_next_use_starts_another_keeper(
    board: tuple[Board, Path], number: signal.Signals
) -> None:
    wired, path = board
    before = children()
    strike = KeptLine(BoardOfAUnit(path), OutputSpec(CHIP, 27, active_low=False, longest_ms=60_000), SystemClock())
    strike.set(on=True)
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, number)
    assert until(lambda: wired.pulses[0].off_s is not None) < 1
    strike.set(on=True)
    assert wired.pulses[1].off_s is None
    assert keeper not in children()
    strike.close()
    assert wired.pulses[1].off_s is not None
    assert children() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_what_a_terminal_sends_is_for_the_unit(board: tuple[Board, Path], number: signal.Signals) -> None:
    wired, path = board
    before = children()
    strike = BoardOfAUnit(path).open_output(OutputSpec(CHIP, 27, active_low=False, longest_ms=60_000))
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, number)
    strike.set(on=True)
    assert wired.pulses[0].off_s is None
    strike.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_keeper_that_is_killed_or_hangs_leaves_no_line_on_longer_than_a_pulse_and_a_start(
    board: tuple[Board, Path], number: signal.Signals
) -> None:
    wired, path = board
    before = children()
    problems: list[PosternError] = []
    spec = PulseSpec(OutputSpec(CHIP, 27, active_low=False, longest_ms=400), 400 * MS)
    outputs = Outputs({"strike": spec}, BoardOfAUnit(path), clock=SystemClock(), on_problem=problems.append)
    assert outputs.pulse("strike")
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, number)
    time.sleep(0.5)
    until(lambda: outputs.tick() or wired.pulses[0].off_s is not None)  # type: ignore[func-returns-value]
    assert keeper not in children()
    outputs.close()
    assert children() == before


def test_a_stop_that_reached_the_keeper_first_is_no_problem(board: tuple[Board, Path]) -> None:
    _, path = board
    before, problems = children(), []
    spec = PulseSpec(OutputSpec(CHIP, 27, active_low=False, longest_ms=400), 400 * MS)
    outputs = Outputs({"strike": spec}, BoardOfAUnit(path), clock=SystemClock(), on_problem=problems.append)
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, signal.SIGTERM)
    outputs.close()
    assert problems == []
    assert children() == before


def test_the_keeper_is_small_and_has_nothing_of_the_units(board: tuple[Board, Path], tmp_path: Path) -> None:
    _, path = board
    before = children()
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)  # as a library may that knows no better
        lines = BoardOfAUnit(path)
        held = [lines.open_output(OutputSpec(CHIP, one, active_low=False)) for one in (1, 2)]
        (keeper,) = set(children()) - set(before)
        process = Path("/proc") / str(keeper)
        status = dict(one.split(":", 1) for one in (process / "status").read_text().splitlines())
        files = [str(one.readlink()) for one in (process / "fd").iterdir()]
        assert (process / "environ").read_bytes() == b""
        print(f"{files}, {status['VmRSS'].strip()}")
    for one in held:
        one.close()
    assert int(status["Threads"]) == 1
    assert int(status["VmRSS"].split()[0]) <= MAX_KEEPER_KIB
    assert not [one for one in files if "secret" in one]
    assert len(files) <= 7  # two pipes to the unit, one to wake up, the log; two lines of this board
    assert children() == before


@pytest.mark.parametrize("chip", ["/dev/gpiochip-that-is-not", "/dev/null", "/proc/version"])
def test_the_boards_own_keeper_starts_and_says_that_a_chip_is_none(chip: str) -> None:
    pytest.importorskip("gpiod")
    before = children()
    with pytest.raises(DeviceLostError, match=f"line 27 of {chip} cannot be used: .*: "):
        KeptLines().open_output(OutputSpec(Path(chip), 27, active_low=False))
    assert children() == before


def test_a_keeper_that_cannot_start_is_one_sentence() -> None:
    for command in ([f"{sys.executable}-that-is-not"], [sys.executable, "-c", "pass"]):
        with pytest.raises(DeviceLostError, match="what holds the output lines"):
            KeptLines(command).open_output(OutputSpec(CHIP, 27, active_low=False))


def test_a_line_that_is_taken_is_told_and_the_others_are_held(board: tuple[Board, Path]) -> None:
    wired, path = board
    other = BoardLines(wired).open_output(OutputSpec(CHIP, 5, active_low=False))
    lines = BoardOfAUnit(path)
    strike = lines.open_output(OutputSpec(CHIP, 27, active_low=False))
    with pytest.raises(DeviceLostError, match="line 5 cannot be used"):
        lines.open_output(OutputSpec(CHIP, 5, active_low=False))
    strike.set(on=True)
    strike.close()
    other.close()
    SocketLines(path).open_output(OutputSpec(CHIP, 27, active_low=False)).close()
