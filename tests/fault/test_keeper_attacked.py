# SPDX-License-Identifier: Apache-2.0
"""The keeper of the output lines, and the unit's side of it: stopped, out of files, forgotten, at fault."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.clock import SimulatedClock, SystemClock
from agent.door.keeper import ENDING, IGNORED
from agent.door.kept import KeptLines
from agent.door.lines import Input, InputSpec, KeptLine, OutputLine, OutputSpec
from agent.door.outputs import Outputs, PulseSpec
from agent.errors import DeviceLostError, PosternError
from tests.simulators.broker import PATIENCE_S
from tests.simulators.keeper import children, served_board, until
from tools.lib.rig.board import Board, BoardLines, BoardOfAUnit

CHIP = Path("/dev/gpiochip0")
MS = 1_000_000
SECOND = 1000 * MS
# A keeper whose board has one line that no error of the board explains.
FAULTY = """
import sys
sys.path[:] = sys.argv[2:]
from pathlib import Path
from agent.door.keeper import main
from tools.lib.rig.board import SocketLines
lines = SocketLines(Path(sys.argv[1]))
def open_output(spec):
    if spec.line == 99:
        raise MemoryError
    return lines.open_output(spec)
main(open_output)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[Board, Path]]:
    with served_board(tmp_path) as served:
        yield served


def strike(longest_ms: int) -> OutputSpec:
    return OutputSpec(CHIP, 27, active_low=False, longest_ms=longest_ms)


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU])
def test_a_terminal_that_stops_the_unit_leaves_no_line_on(board: tuple[Board, Path], number: signal.Signals) -> None:
    """Ctrl-Z is for all processes of the terminal: with the keeper stopped as well, a door would stay open."""
    wired, path = board
    before = children()
    line = BoardOfAUnit(path).open_output(strike(300))
    line.set(on=True)
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, number)
    until(lambda: wired.pulses[0].off_s is not None)
    line.close()


def test_no_signal_but_two_of_the_manager_ends_a_keeper(board: tuple[Board, Path]) -> None:
    wired, path = board
    before = children()
    line = BoardOfAUnit(path).open_output(strike(60_000))
    line.set(on=True)
    (keeper,) = set(children()) - set(before)
    faults = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP", "SIGKILL", "SIGSTOP"}
    for number in signal.valid_signals() - set(ENDING):
        if getattr(number, "name", "") not in faults:
            assert number in IGNORED
            os.kill(keeper, number)
    line.set(on=True)
    assert [one.off_s for one in wired.pulses] == [None]
    line.close()


def test_a_signal_that_the_unit_holds_back_ends_its_keeper_all_the_same(board: tuple[Board, Path]) -> None:
    wired, path = board
    before = children()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        line = BoardOfAUnit(path).open_output(strike(60_000))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    line.set(on=True)
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, signal.SIGTERM)
    until(lambda: wired.pulses[0].off_s is not None)
    line.close()


def test_whoever_has_the_units_user_debugs_no_keeper_into_holding_a_door_open() -> None:
    code = """
import ctypes, resource, sys
from agent.door.keeper import main
main()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.split() == ["0", "0", "0"]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def no_file_left() -> Iterator[None]:
    """Let this process open no file more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_unit_that_may_open_no_file_says_so_and_goes_on_once_it_may(board: tuple[Board, Path]) -> None:
    """Its keeper was killed, and another one takes four files."""
    wired, path = board
    before, problems = children(), list[PosternError]()
    outputs = Outputs(
        {"strike": PulseSpec(strike(400), 400 * MS)},
        BoardOfAUnit(path),
        clock=SystemClock(),
        on_problem=problems.append,
    )
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, signal.SIGKILL)
    files = open_files()
    with no_file_left():
        assert not outputs.pulse("strike")
    assert [str(one) for one in problems if "cannot be started" in str(one)]
    assert open_files() <= files, "nothing is left open"
    time.sleep(1.1)  # between two attempts to take the line
    until(lambda: outputs.tick() or outputs.pulse("strike"))  # type: ignore[func-returns-value]
    assert wired.pulses[-1].line == 27
    outputs.close()
    assert wired.pulses[-1].off_s is not None
    assert children() == before


def test_where_children_are_nobodys_a_keeper_that_died_is_followed_by_another(board: tuple[Board, Path]) -> None:
    """As where whoever started the unit ignored SIGCHLD: the kernel then forgets how a child ended."""
    wired, path = board
    before = children()
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        line = KeptLine(BoardOfAUnit(path), strike(60_000), SystemClock())
        line.set(on=True)
        (keeper,) = set(children()) - set(before)
        os.kill(keeper, signal.SIGKILL)
        line.set(on=True)
        assert wired.pulses[-1].off_s is None
        line.close()
    finally:
        signal.signal(signal.SIGCHLD, ignored)
    assert all(one.off_s is not None for one in wired.pulses)
    assert children() == before


def test_a_fault_of_the_keeper_itself_leaves_no_line_on(board: tuple[Board, Path]) -> None:
    wired, path = board
    lines = KeptLines([sys.executable, "-I", "-S", "-c", FAULTY, str(path), *sys.path])
    line = lines.open_output(strike(60_000))
    line.set(on=True)
    with pytest.raises(DeviceLostError):
        lines.open_output(OutputSpec(CHIP, 99, active_low=False))
    assert wired.pulses[0].off_s is not None
    assert len(wired.pulses) == 1


def test_garbage_without_end_from_a_keeper_takes_no_memory() -> None:
    endless = "import os\nwhile True: os.write(1, b'x' * 65536)"
    before = children()
    began = time.monotonic()
    with pytest.raises(DeviceLostError, match="started again"):
        KeptLines([sys.executable, "-I", "-S", "-c", endless]).open_output(strike(1))
    assert time.monotonic() - began < PATIENCE_S
    assert children() == before


class Failing:
    """Lines of a board of which none can be switched or taken for a while."""

    def __init__(self, board: Board) -> None:
        self._lines, self.broken = BoardLines(board), False

    def open_input(self, spec: InputSpec) -> Input:
        return self._lines.open_input(spec)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        self.check()
        return _Failing(self, self._lines.open_output(spec))

    def check(self) -> None:
        if self.broken:
            raise DeviceLostError("it does not answer")


class _Failing:
    def __init__(self, lines: Failing, line: OutputLine) -> None:
        self._lines, self._line = lines, line

    def set(self, *, on: bool) -> None:
        self._lines.check()
        self._line.set(on=on)

    def close(self) -> None:
        self._line.close()


def test_nobody_is_let_in_by_a_line_that_did_not_go_on() -> None:
    """The second person within a pulse that failed was told to come in."""
    clock, problems = SimulatedClock(), list[PosternError]()
    board = Board(lambda: clock.monotonic_ns() / 1e9)
    lines = Failing(board)
    outputs = Outputs({"strike": PulseSpec(strike(3000), 3 * SECOND)}, lines, clock=clock, on_problem=problems.append)
    lines.broken = True
    assert not outputs.pulse("strike")
    clock.advance(0.5)
    assert not outputs.pulse("strike"), "it never went on"
    assert board.pulses == []
    lines.broken = False
    clock.advance(2.0)
    assert outputs.pulse("strike"), "half a second before the end of what failed"
    for _ in range(200):
        clock.advance(0.02)
        outputs.tick()
    (pulse,) = board.pulses
    assert pulse.off_s is not None
    assert pulse.off_s - pulse.on_s == pytest.approx(3.0, abs=0.03), "and it has its whole length"


def test_nobody_is_let_in_by_a_line_that_went_off_with_its_keeper(board: tuple[Board, Path]) -> None:
    """Whoever comes next within the pulse finds the door open, or is not told to come in."""
    wired, path = board
    before = children()
    outputs = Outputs(
        {"strike": PulseSpec(strike(30_000), 30 * SECOND)},
        BoardOfAUnit(path),
        clock=SystemClock(),
        on_problem=lambda _: None,
    )
    assert outputs.pulse("strike")
    (keeper,) = set(children()) - set(before)
    os.kill(keeper, signal.SIGTERM)
    until(lambda: wired.pulses[0].off_s is not None)
    assert outputs.pulse("strike")
    assert wired.pulses[-1].off_s is None, "it is on again"
    outputs.close()
    assert wired.pulses[-1].off_s is not None


def test_threads_that_switch_at_once_get_their_own_answers(board: tuple[Board, Path]) -> None:
    wired, path = board
    lines = BoardOfAUnit(path)
    held = [lines.open_output(OutputSpec(CHIP, one, active_low=False, longest_ms=60_000)) for one in range(8)]
    failed: list[Exception] = []

    def flutter(line: OutputLine) -> None:
        try:
            for turn in range(50):
                line.set(on=turn % 2 == 0)
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=flutter, args=(one,)) for one in held]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failed == []
    assert len(wired.pulses) == 8 * 25
    assert all(one.off_s is not None for one in wired.pulses)
    for line in held:
        line.close()
