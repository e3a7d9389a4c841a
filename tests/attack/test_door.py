# SPDX-License-Identifier: Apache-2.0
"""Attacks on what a person meets: lines that come and go, a display's path, presses without end, who comes back."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.door.acts import Request
from agent.door.feedback import AGAIN_NS, TEXTS, WAIT_NS, Feedback
from agent.door.gpio import MAX_READS, GpiodLines
from agent.door.lines import REOPEN_NS, InputSpec, OutputLine, OutputSpec
from agent.door.outputs import Ticking
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.errors import DeviceLostError, PosternError
from agent.match.records import Match
from agent.protocol.subject import SubjectId
from agent.unit.at_the_door import Door, make_gate
from agent.unit.by_hand import outputs_off
from tests.simulators.config import parse_config
from tools.lib.rig.board import Board, BoardLines

BASE: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "config.example.yaml").read_text())
CHIP = "/dev/gpiochip0"
STRIKE, BUTTON, GRANTED, WAIT = 27, 17, 5, 6
ANN = SubjectId(b"a" * 16)
FRAME_S = 0.1


class Pulled:
    """A board that can be pulled out and plugged in: lines that were open are dead for ever, and new ones work."""

    def __init__(self, board: Board) -> None:
        self._lines = BoardLines(board)
        self._open: list[tuple[Cable, OutputSpec]] = []
        self.is_in = True

    def open_input(self, spec: InputSpec) -> Any:
        return self._lines.open_input(spec)

    def open_key(self, device: Path, key: str) -> Any:
        return self._lines.open_key(device, key)

    def open_output(self, spec: OutputSpec) -> OutputLine:
        if not self.is_in:
            raise DeviceLostError(f"{spec} cannot be used: there is no such chip")
        cable = Cable(self._lines.open_output(spec))
        self._open.append((cable, spec))
        return cable

    def pull(self, *lines: int) -> None:
        """Out; what hung on it has no power."""
        self.is_in = False
        for cable, spec in self._open:
            if not lines or spec.line in lines:
                cable.pull()

    def plug(self) -> None:
        self.is_in = True


class Cable:
    def __init__(self, line: OutputLine) -> None:
        self._line, self._dead = line, False

    def pull(self) -> None:
        if not self._dead:
            self._line.close()
        self._dead = True

    def set(self, *, on: bool) -> None:
        if self._dead:
            raise DeviceLostError("it was pulled out")
        self._line.set(on=on)

    def close(self) -> None:
        if self._dead:
            raise DeviceLostError("it was pulled out")
        self._dead = True
        self._line.close()


class Entrance:
    """A door with a button, a strike, two lamps and a display."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.clock, self.problems, self.text = SimulatedClock(), list[str](), folder / "run" / "display"
        self.text.parent.mkdir(exist_ok=True)
        self.board = Board(lambda: self.clock.monotonic_ns() / 1e9)
        self.lines = Pulled(self.board)
        light = {"chip": CHIP}
        self.config: Config = parse_config(
            yaml.safe_dump(
                BASE
                | {
                    "activation": {
                        "kind": "button",
                        "name": "entrance",
                        "window_s": 30,
                        "inputs": [{"kind": "gpio", "chip": CHIP, "line": BUTTON}],
                    },
                    "outputs": [{"name": "strike", "kind": "gpio", "chip": CHIP, "line": STRIKE, "pulse_ms": 3000}],
                    "rules": [{"name": "staff", "then": ["strike"], "liveness": "unchecked: a photograph opens it"}],
                    "feedback": {
                        "granted": light | {"line": GRANTED},
                        "wait": light | {"line": WAIT},
                        "text": str(self.text),
                    },
                }
                | changes
            ).encode(),
            folder / "unit.yaml",
        )
        self.gate = make_gate(self.config)
        self.rights = Rights(folder / "rights.db", self.clock)
        self.door = Door(
            self.config,
            self.gate,
            self.rights,
            self.lines,
            clock=self.clock,
            verification=Verification(self.clock, lambda *_: None),
            on_problem=self._on_problem,
        )

    def _on_problem(self, error: PosternError) -> None:
        self.problems.append(str(error))

    def press(self) -> None:
        self.board.press(BUTTON)
        self.door.between_frames(enrolling=False, press=lambda _: None)

    def stand(self, seconds: float, *, there: bool = True, matched_after: float | None = None) -> list[str]:
        """What the display says, each time that it changes, while somebody stands there or does not."""
        told: list[str] = []
        for number in range(round(seconds / FRAME_S)):
            self.clock.advance(FRAME_S)
            self.door.between_frames(enrolling=False, press=lambda _: None)
            self.door.see(1 if there and self.gate.waits(self.clock.monotonic_ns()) else 0)
            if matched_after is not None and number == round(matched_after / FRAME_S):
                self.match()
            self.door.show(None)
            self.door.outputs.tick()
            told.append(self.text.read_text().strip())
        return [one for one, before in zip(told, ["", *told], strict=False) if one != before]

    def match(self, subject: SubjectId = ANN) -> None:
        self.door.matched(Match(subject, "entrance", self.clock.monotonic_ns()))

    def pulses(self, line: int = STRIKE) -> list[tuple[float, float | None]]:
        return [(one.on_s, one.off_s) for one in self.board.pulses if one.line == line]

    def is_on(self, line: int) -> bool:
        return any(off is None for _, off in self.pulses(line))


@pytest.fixture
def entrance(tmp_path: Path) -> Iterator[Entrance]:
    made = Entrance(tmp_path)
    yield made
    made.door.close()
    made.rights.__exit__()


# -- lines ------------------------------------------------------------------------------------------------------------


def test_relays_that_were_pulled_out_and_are_back_open_the_door_at_the_next_match(entrance: Entrance) -> None:
    entrance.lines.pull()
    entrance.lines.plug()
    entrance.stand(2, there=False)
    entrance.press()
    entrance.stand(1)
    entrance.match()
    assert entrance.is_on(STRIKE)
    entrance.stand(4)
    assert [round((off or 0) - on, 1) for on, off in entrance.pulses()] == [3.0]


def test_relays_pulled_out_in_the_middle_of_a_pulse_are_off_when_they_are_back(entrance: Entrance) -> None:
    entrance.press()
    entrance.match()
    assert entrance.is_on(STRIKE)
    entrance.lines.pull()
    entrance.stand(5)
    assert any("there is no such chip" in one for one in entrance.problems)
    entrance.lines.plug()
    entrance.stand(2)
    assert not entrance.is_on(STRIKE)
    entrance.clock.advance(60)
    entrance.match()
    assert entrance.is_on(STRIKE), "and it opens again"


def test_a_board_that_stays_away_is_looked_for_once_a_second(entrance: Entrance) -> None:
    entrance.match()
    entrance.lines.pull()
    looked: list[float] = []

    def open_output(spec: OutputSpec) -> OutputLine:
        looked.append(entrance.clock.monotonic_ns())
        raise DeviceLostError(f"{spec} cannot be used")

    entrance.lines.open_output = open_output  # type: ignore[method-assign]
    for _ in range(1000):
        entrance.clock.advance(0.02)
        entrance.door.outputs.tick()
    assert 15 <= len(looked) <= 20e9 / REOPEN_NS


def test_a_broken_lamp_leaves_no_other_lamp_on_and_no_old_text(entrance: Entrance) -> None:
    entrance.press()
    entrance.stand(1)
    assert entrance.is_on(WAIT)
    entrance.lines.pull(WAIT)
    assert entrance.stand(1, matched_after=0) == [TEXTS["granted"]]
    assert entrance.is_on(GRANTED)
    entrance.stand(20, there=False)
    assert not entrance.is_on(GRANTED)
    assert entrance.text.read_text().strip() == TEXTS["ready"]


def test_memory_that_is_short_for_a_moment_leaves_no_pulse_on() -> None:
    ticks = threading.Semaphore(0)
    failures = [MemoryError(), MemoryError()]

    def tick() -> None:
        if failures:
            raise failures.pop()
        ticks.release()

    ticking = Ticking(tick)
    ticking.start()
    assert ticks.acquire(timeout=5), "the thread that ends pulses is gone"
    ticking.stop()


# -- acts -------------------------------------------------------------------------------------------------------------


def test_a_request_that_comes_while_the_unit_looks_is_not_lost() -> None:
    class Racing(threading.Event):
        """The command comes between the two steps of a look."""

        def is_set(self) -> bool:
            before = super().is_set()
            self.set()
            return before

    request = Request()
    request._asked = Racing()
    assert not request.pressed()
    assert request.pressed()


@pytest.mark.parametrize("back_s", [5.0, 8.0, 12.0])
def test_who_looks_away_and_comes_back_learns_not_whether_the_unit_knows_them(tmp_path: Path, back_s: float) -> None:
    """Somebody holds up a picture, takes it away, and holds it up again while the window of the button is open."""

    def told(folder: Path, *, known: bool) -> list[str]:
        folder.mkdir()
        entrance = Entrance(folder, outputs=[], rules=[])  # nothing opens: it is known, and refused
        entrance.press()
        seen = entrance.stand(3, matched_after=1 if known else None)
        seen += entrance.stand(back_s - 3, there=False)
        seen += entrance.stand(30 - back_s)
        entrance.rights.__exit__()
        return seen

    assert told(tmp_path / "stranger", known=False) == told(tmp_path / "known", known=True)


def test_each_press_is_answered_anew(entrance: Entrance) -> None:
    for _ in range(2):
        entrance.press()
        told = entrance.stand((WAIT_NS + AGAIN_NS) / 1e9 + 1)
        assert told[-3:] == [TEXTS["wait"], TEXTS["again"], TEXTS["ready"]]


# -- the display's path -----------------------------------------------------------------------------------------------


def test_a_text_that_a_full_disk_refused_is_shown_once_there_is_room(entrance: Entrance) -> None:
    hidden = entrance.text.parent.with_name("away")
    entrance.press()
    entrance.text.parent.rename(hidden)
    entrance.door.see(1)
    entrance.door.show(None)
    assert "make its folder writable" in entrance.problems[-1]
    hidden.rename(entrance.text.parent)
    entrance.door.show(None)
    assert entrance.text.read_text().strip() == TEXTS["wait"]


@pytest.mark.parametrize("trap", ["link", "fifo", "folder"])
@pytest.mark.parametrize("beside", [".new", ""])
def test_what_lies_where_the_text_goes_is_neither_written_through_nor_waited_for(
    tmp_path: Path, trap: str, beside: str
) -> None:
    folder, precious = tmp_path / "run", tmp_path / "gallery.db"
    folder.mkdir()
    precious.write_bytes(b"everybody")
    for name in {f"display{beside}", f".display{beside}"}:
        place = folder / name
        if trap == "link":
            place.symlink_to(precious)
        elif trap == "fifo":
            os.mkfifo(place)
        else:
            place.mkdir()
    problems: list[PosternError] = []
    done = threading.Event()

    def show() -> None:
        feedback = Feedback({}, folder / "display", press=False, clock=SimulatedClock(), on_problem=problems.append)
        feedback.close()
        done.set()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    assert done.wait(5), "the unit waits for whoever reads there"
    assert precious.read_bytes() == b"everybody"
    if beside == "" or trap == "folder":
        assert problems, "and it is told"


def test_a_path_mistyped_as_another_file_costs_nobody_that_file(tmp_path: Path) -> None:
    gallery = tmp_path / "gallery.db"
    gallery.write_bytes(b"SQLite format 3\0" + bytes(4096))
    problems: list[PosternError] = []
    Feedback({}, gallery, press=False, clock=SimulatedClock(), on_problem=problems.append).tick()
    assert gallery.stat().st_size == 4112
    assert "name another file as feedback.text" in str(problems[0])


def test_a_unit_that_was_killed_lets_nobody_in_on_its_display(tmp_path: Path) -> None:
    entrance = Entrance(tmp_path)
    entrance.press()
    entrance.stand(2, matched_after=1)
    assert entrance.text.read_text().strip() == TEXTS["granted"]
    shown = parse_config(
        yaml.safe_dump(BASE | {"feedback": {"text": str(entrance.text)}}).encode(), tmp_path / "u.yaml"
    )
    assert outputs_off(shown) == []
    assert entrance.text.read_text().strip() == TEXTS["ready"]


# -- storms -----------------------------------------------------------------------------------------------------------


def test_a_line_that_flutters_without_end_holds_up_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel gives for a floating wire beside a motor: always another edge."""
    reads: list[int] = []
    request = SimpleNamespace(
        wait_edge_events=lambda _: len(reads) < 100_000, read_edge_events=lambda: reads.append(1) or [1]
    )
    known = SimpleNamespace(UP=1, INPUT=1, RISING=1, PULL_UP=1)
    line = SimpleNamespace(Bias={"PULL_UP": 1}, Direction=known, Edge=known)
    board = SimpleNamespace(line=line, LineSettings=lambda **_: None, request_lines=lambda *_, **__: request)
    monkeypatch.setitem(sys.modules, "gpiod", board)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "gpiod.line", line)  # type: ignore[arg-type]
    button = GpiodLines().open_input(InputSpec(Path(CHIP), BUTTON, "pull_up", active_low=True, debounce_ms=0))
    assert button.pressed()
    assert len(reads) <= MAX_READS


def test_a_storm_of_presses_and_requests_gives_one_person_one_pulse(entrance: Entrance) -> None:
    for _ in range(100):
        entrance.press()
        entrance.stand(0.1)
        entrance.match()
    assert len(entrance.pulses()) == 1
    entrance.stand(5)
    assert not entrance.is_on(STRIKE)


@pytest.mark.parametrize("step_days", [-400, -1, 1, 400])
def test_a_clock_that_is_set_in_a_pulse_or_a_cool_down_changes_neither(entrance: Entrance, step_days: int) -> None:
    entrance.match()
    entrance.stand(1)
    entrance.clock.step_wall(step_days * 86_400)
    entrance.match()
    entrance.stand(3)
    assert [round((off or 0) - on, 1) for on, off in entrance.pulses()] == [3.0]
    entrance.match()
    assert len(entrance.pulses()) == 1, "the cool-down of 10 s is not over"
    entrance.stand(7)
    entrance.match()
    assert len(entrance.pulses()) == 2
