# SPDX-License-Identifier: Apache-2.0
"""What begins and ends beside the pipeline, in which order; and what the running unit tells its console."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.clock import SystemClock
from agent.console.link import MAX_ASK_BYTES, socket_of
from agent.console.opening import digest_of_code, make_opening, read_opening, write_opening
from agent.door.acts import Inputs
from agent.errors import PosternError, RefusedError, RetryError
from agent.parse.strict_json import loads
from agent.unit.desk import LOOK_S, OVER, WAITING, Desk, corners_in, reread
from agent.unit.doctor import CHECKS
from agent.unit.examiner import Examiner
from agent.unit.memory import FOREIGN_BYTES, text_mappings
from agent.unit.world import FIRST_PICTURE_S, UPLINK_STOP_S, in_bounded_threads, in_threads, shown_nowhere
from tests.simulators.broker import wait_until
from tests.unit.test_console_desk import Unit as Opened
from tests.unit.test_console_desk import config

# -- beside the pipeline ----------------------------------------------------------------------------------------------


class Parts:
    """Uplink, housekeeping and outputs that keep what was asked of them."""

    def __init__(self, *, lines: bool, flushed: bool) -> None:
        self.done: list[tuple[object, ...]] = []
        self.names = ("strike",) if lines else ()
        self.ticked = threading.Event()
        self.flushed = flushed
        self.uplink = SimpleNamespace(start=lambda wait_s: self.done.append(("uplink", wait_s)), stop=self._flush)
        self.housekeeping = SimpleNamespace(start=lambda: self.done.append(("housekeeping",)))
        self.outputs = SimpleNamespace(names=self.names, tick=self.ticked.set)

    def _flush(self, within_s: float) -> bool:
        self.done.append(("flush", within_s))
        return self.flushed

    def all(self) -> tuple[Any, Any, Any]:
        return cast("tuple[Any, Any, Any]", (self.uplink, self.housekeeping, self.outputs))


def pulsing() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "postern-outputs"]


@pytest.mark.parametrize("lines", [True, False])
def test_all_begins_beside_the_pipeline_and_pulses_only_where_there_is_a_line(
    lines: bool, caplog: pytest.LogCaptureFixture
) -> None:
    parts = Parts(lines=lines, flushed=True)
    with in_threads(*parts.all()):
        assert parts.done == [("uplink", FIRST_PICTURE_S), ("housekeeping",)]
        assert len(pulsing()) == lines
        assert parts.ticked.wait(5 if lines else 0.1) == lines
    assert parts.done[2:] == [("flush", UPLINK_STOP_S)]
    assert pulsing() == []
    assert caplog.records == []


def test_what_the_broker_did_not_take_is_told_and_the_end_of_a_run_that_failed_is_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = Parts(lines=True, flushed=False)
    with pytest.raises(RetryError), in_threads(*parts.all()):
        raise RetryError("the camera")
    assert parts.done[2:] == [("flush", UPLINK_STOP_S)]
    assert pulsing() == []
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "the broker did not take everything in time; what is left is sent after the next start")
    ]


def test_a_process_that_is_this_unit_alone_has_a_bound_for_what_others_send_and_the_same_threads() -> None:
    parts, before = Parts(lines=False, flushed=True), resource.getrlimit(resource.RLIMIT_DATA)
    with in_bounded_threads(*parts.all()):
        assert parts.done == [("uplink", FIRST_PICTURE_S), ("housekeeping",)]
        assert 0 < resource.getrlimit(resource.RLIMIT_DATA)[0] < FOREIGN_BYTES + (8 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert parts.done[2:] == [("flush", UPLINK_STOP_S)]
    shown_nowhere(None)


def test_only_program_text_that_is_nothing_but_a_files_is_let_go_of() -> None:
    def mapping(start: str, rights: str, path: str, own: str) -> list[str]:
        return [f"{start}-{start}f {rights} 00000000 08:01 1234 {path}", "Rss: 4 kB", f"Anonymous: {own} kB"]

    lines = [
        "Anonymous: 0 kB",  # of no mapping
        *mapping("a0", "r-xp", "/usr/lib/a.so", "0"),
        *mapping("b0", "r-xp", "/usr/lib/b.so", "4"),
        *mapping("c0", "rwxp", "/usr/lib/c.so", "0"),
        *mapping("d0", "r--p", "/usr/lib/d.so", "0"),
        *mapping("e0", "r-xp", "[vdso]", "0"),
        *mapping("f0", "r-xp", "", "0"),
        *mapping("A0", "r-xp", "/usr/lib/g.so", "0"),  # no address as the kernel writes one
        *mapping("90", "r-xp", "/usr/lib/with a space.so", "0"),
    ]
    assert list(text_mappings(lines)) == [(0xA0, 0xA0F), (0x90, 0x90F)]


# -- the desk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    made = Opened(tmp_path)
    made.desk.start()
    made.open()
    yield made
    made.desk.stop()


def answer(unit: Opened, content: bytes) -> Mapping[str, Any]:
    told: Mapping[str, Any] = loads(unit.raw(content).rstrip(b"\n"), limit=MAX_ASK_BYTES)
    return told


def test_each_question_that_is_none_is_answered_with_what_to_do(opened: Opened) -> None:
    unknown = {"error": "the unit knows no such act: upgrade unit and console together"}
    unreadable = {"error": "the unit cannot read this: send JSON with whole numbers"}
    for content, told in (
        (b'{"do":"other"}\n', unknown),
        (b'{"do":1}\n', unknown),
        (b"[]\n", unknown),
        (b"{}\n", unknown),
        (b'{"do":"say","x":1.5}\n', unreadable),
        (b"\n", unreadable),
        (b'{"do":"refuse"}\n', {"error": "not so: do it another way"}),
        (b'{"do":"say","x":1,"y":"z"}\n', {"said": {"x": 1, "y": "z"}}),
    ):
        assert answer(opened, content) == told, content
    (broken,) = answer(opened, b'{"do":"break"}\n').items()
    assert broken[0] == "error"
    assert "ZeroDivisionError" in broken[1]


def test_a_question_is_read_to_its_end_in_however_many_pieces_it_comes(opened: Opened) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5)
        link.connect(str(socket_of(opened.settings.folder)))
        for piece in (b'{"do":', b'"say",', b'"x":7}\n'):
            link.sendall(piece)
        assert link.recv(65536) == b'{"said":{"x":7}}\n'
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(5)
        link.connect(str(socket_of(opened.settings.folder)))
        link.sendall(b'{"do":"say","x":7}')
        link.shutdown(socket.SHUT_WR)  # without the end of a line, and nothing more will come
        assert link.recv(65536) == b'{"said":{"x":7}}\n'


def test_an_opening_that_was_over_opens_nothing_when_it_is_put_back_and_the_next_one_does(opened: Opened) -> None:
    folder = opened.settings.folder
    first = read_opening(folder, opened.clock)
    assert first is not None
    other = make_opening(opened.clock, code=digest_of_code("y"), minutes=1, scope="aim", by="unit")
    write_opening(folder, other)
    wait_until(lambda: opened.noticed == [first, other])
    assert opened.problems == []
    write_opening(folder, first)
    wait_until(lambda: opened.noticed == [first, other, None])
    assert [str(one) for one in opened.problems] == [
        "an opening of the console that was over was put back: it opens nothing"
    ]
    assert read_opening(folder, opened.clock) is None, "it is closed"
    third = make_opening(opened.clock, code=digest_of_code("z"), minutes=1, scope="aim", by="unit")
    write_opening(folder, third)
    wait_until(lambda: opened.noticed == [first, other, None, third])
    assert (OVER, WAITING, LOOK_S) == (64, 4, 0.5)


def test_a_button_that_is_pressed_is_told_once_and_let_go_of_at_the_end(tmp_path: Path) -> None:
    told: list[str] = []
    presses = iter([None, "press", None])

    class Button:
        def look(self) -> object:
            return next(presses, None)

        def close(self) -> None:
            told.append("closed")

    unit = Opened(tmp_path)
    desk = Desk(
        unit.settings,
        {},
        unit.clock,
        noticed=unit.noticed.append,
        button=cast("Inputs", Button()),
        pressed=lambda: told.append("pressed"),
        on_problem=unit.problems.append,
    )
    assert desk.thread.name == "postern-desk"
    assert desk.thread.daemon
    desk.start()
    wait_until(lambda: told)
    desk.stop()
    assert told == ["pressed", "closed"]
    assert unit.noticed == []


def test_a_folder_that_cannot_be_listened_in_is_told_and_the_desk_goes_on(tmp_path: Path) -> None:
    problems: list[PosternError] = []
    unit = Opened(tmp_path)
    unit.problems = problems
    path = socket_of(unit.settings.folder)
    path.mkdir()  # nobody can listen there
    desk = unit.desk
    desk._on_problem = problems.append
    desk.start()
    write_opening(
        unit.settings.folder,
        make_opening(unit.clock, code=digest_of_code("x"), minutes=1, scope="aim", by="unit"),
    )
    wait_until(lambda: problems)
    assert isinstance(problems[0], RefusedError)
    path.rmdir()
    wait_until(unit._answers)
    desk.stop()


def test_reading_the_configuration_again_is_the_signal_that_a_reload_is(tmp_path: Path) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: asked.append(number))
    try:
        assert reread() == {}
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == [signal.SIGHUP]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"corners": 1}, {"corners": [[1]]}, {"corners": [[1, 2, 3]]}, {"corners": [], "more": 1}, {"corners": ["ab"]}],
)
def test_corners_that_are_none_are_refused_with_what_to_do(arguments: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refusal:
        corners_in(arguments)
    assert str(refusal.value) == "a zone is a list of corners within the picture: draw it anew"
    assert corners_in({"corners": [[1, 2], [3, 4]]}) == ((1, 2), (3, 4))


# -- the examiner -----------------------------------------------------------------------------------------------------


def test_a_child_that_is_gone_is_told_with_what_to_do_and_leaves_no_process(tmp_path: Path) -> None:
    with Examiner(config(tmp_path), SystemClock()) as examiner:
        assert list(examiner.checks()) == list(CHECKS)
        found = examiner.examine("disk")
        assert [(one["check"], one["state"]) for one in found] == [("disk", "ok")]
        child = examiner._child
        os.kill(child, signal.SIGKILL)
        for act in (examiner.checks, lambda: examiner.examine("disk")):
            with pytest.raises(RetryError) as over:
                act()
            assert str(over.value) == "the checks cannot be done any more: open the console again"
    with pytest.raises(ChildProcessError):
        os.waitpid(child, 0)
