# SPDX-License-Identifier: Apache-2.0
"""A reader at a real control panel (libosdp's) over a serial line: reported, decided there, shown; nothing in clear."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from osdp import Command

from agent.cli import main
from agent.clock import SystemClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.door.osdp import REPORT_NS, OsdpPanels, Panel, PanelSpec
from agent.door.rights import Rights
from agent.door.verification import Verification
from agent.errors import DeviceLostError, KeyStoreError, PosternError
from agent.match.records import Match
from agent.notices.assessment import make_assessment
from agent.notices.notice import make_notice, notice_id
from agent.protocol.subject import SubjectId
from agent.unit.at_the_door import Door, make_gate
from agent.unit.cards import DEFAULT_PANEL_KEY, card_numbers, read_panel_key
from agent.unit.doctor import examine
from agent.unit.key_files import UnitFiles
from agent.unit.wiring import absent, this_machine
from tests.simulators.control_panel import BUZZ, GREEN, KEY, OPEN, control_panel
from tools.lib.rig.board import Board, BoardLines

pytestmark = pytest.mark.timeout(120)

EXAMPLE = yaml.safe_load((Path(__file__).parents[2] / "deploy/config.example.yaml").read_text())
CARD = bytes.fromhex("a1b2c3d4e5f60718")
NEXT = bytes.fromhex("0011223344556677")
ANN, BOB = SubjectId(b"a" * 16), SubjectId(b"b" * 16)
TRIPS = 40
ROUND_TRIP_S = 0.150  # the bar: from the decision to the controller's word here, 95th percentile


def wait_for(what: Callable[[], bool], within_s: float = 8.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.002)
    return False


@contextmanager
def reader(device: Path, problems: list[PosternError], key: bytes = KEY) -> Iterator[Panel]:
    opened = OsdpPanels().open_panel(PanelSpec(device, 0, 9600, key), SystemClock(), problems.append)
    try:
        yield opened
    finally:
        opened.close()


def test_a_report_is_heard_its_answer_is_shown_and_nothing_goes_in_clear() -> None:
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert panel.is_secure()
        assert wait_for(unit.is_secure)
        trips = []
        for _ in range(TRIPS):
            began = time.monotonic()
            assert unit.report(CARD)
            assert wait_for(unit.granted)
            trips.append(time.monotonic() - began)
        assert [card for _, card in panel.reads] == [CARD] * TRIPS
        p95 = sorted(trips)[int(0.95 * TRIPS)]
        print(f"round trip p50 {sorted(trips)[TRIPS // 2] * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms")
        assert sorted(trips)[TRIPS // 2] < ROUND_TRIP_S, "half of them, on a machine that does much else"
        assert CARD not in panel.wire
        assert KEY not in panel.wire
    assert problems == []


def test_an_answer_that_is_lost_is_said_again_with_the_report_in_it() -> None:
    """A reader that did not get to run for 250 ms was away for five minutes, and so was one whose answer was lost."""
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert panel.is_secure()
        assert wait_for(unit.is_secure)
        with panel.lock:
            panel.lost = 1
            assert unit.report(CARD)
        assert wait_for(unit.granted)
        panel.exchange()
        assert [card for _, card in panel.reads] == [CARD], "once"
    assert problems == []


def test_answers_that_are_lost_one_after_another_cost_no_channel() -> None:
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert panel.is_secure()
        assert wait_for(unit.is_secure)
        panel.lost = 3
        assert wait_for(lambda: panel.lost == 0)
        panel.exchange()
        assert panel.is_secure(0.1)
        assert unit.report(NEXT)
        assert wait_for(unit.granted)
        assert [card for _, card in panel.reads] == [NEXT]
    assert problems == []


def test_a_bit_that_the_line_changes_costs_no_channel() -> None:
    """It was five minutes, too."""
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert panel.is_secure()
        assert wait_for(unit.is_secure)
        for _ in range(3):
            panel.harmed = 1
            assert wait_for(lambda: panel.harmed == 0)
            panel.exchange()
            assert panel.is_secure(0.1)
        assert unit.report(CARD)
        assert wait_for(unit.granted)
    assert problems == []


def test_what_a_controller_says_to_a_reader_is_taken_and_only_its_yes_is_shown() -> None:
    with control_panel(answer=lambda card: None) as panel, reader(panel.device, []) as unit:
        assert wait_for(unit.is_secure)
        off = {**OPEN, "control_code": 1}
        red = {**GREEN, "on_color": 1}
        for command in (BUZZ, off, red):
            panel.send(command)
            panel.exchange()
            assert not unit.granted()
        for command in (OPEN, GREEN):
            panel.send(command)
            assert wait_for(unit.granted)
            assert not unit.granted(), "once"


def test_a_panel_with_a_wrong_key_hears_nothing_and_moves_nothing() -> None:
    problems: list[PosternError] = []
    with control_panel(bytes(16)) as panel, reader(panel.device, problems) as unit:
        assert not panel.is_secure(2.5)
        assert not unit.is_secure()
        assert not unit.report(CARD)
        assert panel.reads == []
        assert CARD not in panel.wire
        assert not unit.granted()
    assert "is not there: nobody can be reported" in str(problems[0])


def test_nobody_sets_a_key_over_the_line() -> None:
    with control_panel(answer=lambda card: None) as panel, reader(panel.device, []) as unit:
        assert wait_for(unit.is_secure)
        panel.send({"command": Command.Keyset, "type": 1, "data": bytes(16)})
        assert wait_for(lambda: not unit.is_secure(), 20), "the panel goes on with a key that this reader refused"
        assert not wait_for(unit.is_secure, 3)


def test_a_report_that_nobody_fetches_is_given_up() -> None:
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert wait_for(unit.is_secure)
        with panel.lock:  # between two exchanges
            panel.silent = True
        unit.report(CARD)
        assert wait_for(lambda: any("given up" in str(one) for one in problems), 12)
        panel.silent = False
        assert wait_for(unit.is_secure, 20)
        time.sleep(0.5)  # the panel may rest for longer than a test before it asks again
        assert panel.reads == [], "no door opens for somebody who left"


def test_reports_that_follow_each_other_keep_none_of_them_alive() -> None:
    """A controller is busy for some seconds while people go on: nothing so old is fetched when it asks again."""
    problems: list[PosternError] = []
    with control_panel() as panel, reader(panel.device, problems) as unit:
        assert wait_for(unit.is_secure)
        with panel.lock:  # it asks nothing
            for _ in range(4):  # each sooner than the one before is given up
                unit.report(CARD)
                time.sleep(0.6 * REPORT_NS / 1e9)
        assert unit.report(NEXT)
        assert wait_for(lambda: panel.reads), "the next one is heard"
        assert [card for _, card in panel.reads] == [NEXT], "no door opens for somebody who left"
    assert sum("given up" in str(one) for one in problems) == 2


def test_a_line_that_is_missing_or_taken_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(DeviceLostError, match="there is no such line: plug the adapter in"),
        reader(tmp_path / "no", []),
    ):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceLostError, match="it is no serial line"), reader(tmp_path / "file", []):
        pass
    with (
        control_panel() as panel,
        reader(panel.device, []),
        pytest.raises(DeviceLostError, match="another program holds the line"),
        reader(panel.device, []),
    ):
        pass


# -- the unit ----------------------------------------------------------------------------------------


def config(folder: Path, device: Path, key: str = KEY.hex(), **changes: object) -> Config:
    (folder / "osdp.key").write_text(key + "\n")
    (folder / "osdp.key").chmod(0o600)
    output = {"name": "door", "kind": "osdp", "device": str(device), "key_file": str(folder / "osdp.key"), **changes}
    rules = [{"name": "staff", "liveness": "unchecked: a photograph opens it", "cooldown_s": 5, "then": ["door"]}]
    content = EXAMPLE | {"outputs": [output], "rules": rules, "feedback": {"text": str(folder / "display")}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return load_config(folder / "config.yaml")


@contextmanager
def door(folder: Path, settings: Config, problems: list[PosternError]) -> Iterator[Door]:
    clock = SystemClock()
    with Rights(folder / "rights.db", clock) as rights:
        made = Door(
            settings,
            make_gate(settings),
            rights,
            BoardLines(Board(lambda: 0.0)),
            clock=clock,
            verification=Verification(clock, lambda *_: None),
            card_of=card_numbers(UnitFiles(folder), lambda count: b"s" * count),
            on_problem=problems.append,
        )
        try:
            yield made
        finally:
            made.close()


def shows(folder: Path, text: str, opened: Door) -> bool:
    opened.show(None)
    return (folder / "display").read_text().strip() == text


def settled(opened: Door) -> bool:
    return wait_for(lambda: all(one.is_secure() for one in opened._panels.values()))


def test_the_controller_decides_and_the_person_sees_what_it_says(tmp_path: Path) -> None:
    problems: list[PosternError] = []
    number = card_numbers(UnitFiles(tmp_path), lambda count: b"s" * count)

    def decide(card: bytes) -> dict[str, object] | None:
        return OPEN if card == number(ANN) else None

    with control_panel(answer=decide) as panel, door(tmp_path, config(tmp_path, panel.device), problems) as opened:
        assert settled(opened)
        assert opened.matched(Match(BOB, "entrance", 0)) == ()
        assert wait_for(lambda: len(panel.reads) == 1)
        panel.exchange()
        assert shows(tmp_path, "ready", opened), "reported, and not let in"
        opened.matched(Match(ANN, "entrance", 0))
        assert wait_for(lambda: shows(tmp_path, "come in", opened))
        assert [card for _, card in panel.reads] == [number(BOB), number(ANN)]
        assert ANN.hex() not in bytes(panel.wire).hex()
    assert problems == []


def test_one_number_for_all_is_reported_where_the_file_says_so(tmp_path: Path) -> None:
    with control_panel() as panel, door(tmp_path, config(tmp_path, panel.device, card="0a0b0c0d"), []) as opened:
        assert settled(opened)
        opened.matched(Match(ANN, "entrance", 0))
        assert wait_for(lambda: [card for _, card in panel.reads] == [bytes.fromhex("0a0b0c0d")])


def test_numbers_are_each_persons_own_each_units_own_and_stay(tmp_path: Path) -> None:
    first = card_numbers(UnitFiles(tmp_path), lambda count: b"s" * count)
    again = card_numbers(UnitFiles(tmp_path), lambda count: b"t" * count)
    (tmp_path / "other").mkdir()
    other = card_numbers(UnitFiles(tmp_path / "other"), lambda count: b"t" * count)
    assert first(ANN) == again(ANN) != first(BOB)
    assert other(ANN) != first(ANN)
    assert len(first(ANN)) == 8


def test_what_can_be_known_before_the_start_is_told_then(tmp_path: Path) -> None:
    told = absent(config(tmp_path, tmp_path / "ttyNone", key="12"), this_machine())
    assert any("there is no" in one and "plug the adapter in" in one for one in told)
    assert any("32 hex digits" in one for one in told)
    with pytest.raises(KeyStoreError):
        read_panel_key(tmp_path / "missing.key")


@pytest.mark.parametrize("key", [DEFAULT_PANEL_KEY, bytes(16), b"\xff" * 16])
def test_a_key_that_everybody_knows_opens_no_channel(tmp_path: Path, key: bytes) -> None:
    """The one by which the standard has controllers set up, above all: with it the secure channel hides nothing."""
    settings = config(tmp_path, Path("/dev/tty"), key=key.hex())
    (told,) = absent(settings, this_machine())
    assert told.endswith("holds a key that everybody knows: have one drawn by chance, there and here")
    with pytest.raises(KeyStoreError, match="everybody knows"), door(tmp_path, settings, []):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_root_who_checks_the_file_is_not_told_to_take_the_services_key_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said so, and whoever obeyed had a service that could not read it."""
    config(tmp_path, Path("/dev/tty"))
    os.chown(tmp_path / "osdp.key", 65534, 65534)
    assert main(["check-config", str(tmp_path / "config.yaml")]) == 0
    told = capsys.readouterr().err
    assert "osdp.key is another user's, so its key was not looked at: run this as its owner" in told
    assert "chown" not in told


def test_a_serial_line_that_is_named_as_the_key_is_told(tmp_path: Path) -> None:
    """Two paths in the wrong order: the advice was to make the line the service's alone."""
    with pytest.raises(KeyStoreError, match="/dev/tty is no file: name the one that holds the secret"):
        read_panel_key(Path("/dev/tty"))


@pytest.mark.parametrize(
    ("key", "state", "words"), [(KEY, "ok", "the same key"), (bytes(16), "fault", "check the wires")]
)
def test_the_doctor_tells_whether_the_controller_talks_to_this_unit(
    tmp_path: Path, key: bytes, state: str, words: str
) -> None:
    with control_panel(key) as panel:
        found = list(examine("outputs", config(tmp_path, panel.device), SystemClock()))
    assert [(one.state, words in one.text) for one in found[1:]] == [(state, True)]


def test_the_notice_says_that_a_controller_gets_a_number_and_a_consent_without_it_does_not_count(
    tmp_path: Path,
) -> None:
    numbered = config(tmp_path, tmp_path / "line")
    shared = config(tmp_path, tmp_path / "line", card="0a0b")
    assert "a number that stands for you and stays the same" in make_notice(numbered)
    assert "a number that stands" not in make_notice(shared)
    assert notice_id(numbered) != notice_id(shared)
    assert "stands for the person" in make_assessment(numbered)
