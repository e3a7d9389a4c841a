# SPDX-License-Identifier: Apache-2.0
"""The rig itself: a wrong scenario is answered with its line, a broken promise is seen, and the books are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from agent.errors import ConfigError
from agent.outbox.queue import Head
from agent.outbox.verify import VerifiedEvent
from tests.simulators.signing_unit import SigningUnit, unit_draft, verifier_of
from tools.rigging.clock import AgendaClock, OffsetClock, say_offset
from tools.rigging.ledger import balance
from tools.rigging.outcome import Arrival, Check, Run, judge
from tools.rigging.process import head_of, tear
from tools.rigging.report import Verdict, as_json, as_junit, table
from tools.rigging.scenario import Scenario, load_scenario
from tools.rigging.soak import slope

START = datetime(2026, 1, 5, tzinfo=UTC)
GOOD = """\
promise: Whatever happens here is what the scenario says.
script:
  duration: 5
enrolled:
  - who: person-01
faults:
  - {at: 1, do: kill}
expect:
  - {event: unit, condition: started}
"""


def load(folder: Path, text: str) -> Scenario:
    file = folder / "one.yaml"
    file.write_text(text)
    return load_scenario(file)


def test_a_good_scenario_lasts_as_long_as_its_scene(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).seconds == 5


@pytest.mark.parametrize(
    ("was", "is_now", "complaint"),
    [
        (
            "promise: Whatever",
            "promis: Whatever",
            "one.yaml:1: promis: unknown key; the nearest valid key is 'promise'",
        ),
        ("do: kill", "do: kil", r"one.yaml:7: faults\[0\]"),
        ("at: 1", "at: 5", r"one.yaml:7: faults\[0\]: comes after the end"),
        ("person-01", "person-99", r"no demo person of that name"),
        ("condition: started", "condition: began", r"one.yaml:9: expect\[0\]"),
        ("event: unit, condition: started", "event: match, who: person-02", "person-02 is named in faults or expect"),
        ("script:\n  duration: 5", "scene: nowhere.yaml", "nowhere.yaml: cannot read"),
        ("script:\n  duration: 5", "script:\n  duration: -5", r"one.yaml:3: script.duration"),
        ("script:\n  duration: 5", "seconds: 5", "give one of 'scene', 'script' and 'video'"),
        ("at: 1, do: kill", "at: 1, do: disk_full, until: 1", "'until' must be later than 'at'"),
    ],
)
def test_a_wrong_scenario_is_answered_with_line_and_key(tmp_path: Path, was: str, is_now: str, complaint: str) -> None:
    assert was in GOOD
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, GOOD.replace(was, is_now))


def events_of(unit: SigningUnit, count: int) -> list[VerifiedEvent]:
    verifier, events = verifier_of(unit), []
    for _ in range(count):
        row = unit.say(unit_draft(unit.clock))
        events.append(verifier.check(unit.topic(row), row.payload, unit.clock.now()))
    return events


def test_a_lost_a_doubled_and_an_altered_event_do_not_balance(tmp_path: Path) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    events = events_of(unit, 5)
    heads = [Head(3, events[2].digest), Head(*unit.outbox.head())]
    assert balance(heads, events).ok
    assert balance(heads, events[:2] + events[3:]).lost == 1
    assert balance(heads, events[:4]).lost == 1
    assert balance(heads, [*events, events[1]]).doubled == 1
    assert balance([Head(3, "sha256:" + "0" * 64), heads[1]], events).altered == 1
    forged = replace(events[1], digest="sha256:" + "1" * 64)
    assert balance(heads, [events[0], forged, *events[2:]]).altered == 1
    assert balance(heads, events[2:], after=2).ok


def test_the_head_is_read_beside_a_torn_write_and_the_unit_goes_on_from_it(tmp_path: Path) -> None:
    unit = SigningUnit(tmp_path / "outbox.db")
    events_of(unit, 4)
    dead = tmp_path / "dead"
    dead.mkdir()
    for file in tmp_path.glob("outbox.db*"):
        if file.is_file():
            (dead / file.name).write_bytes(file.read_bytes())
    assert head_of(dead / "outbox.db") == unit.outbox.head()
    tear(dead / "outbox.db", bytes(range(256)) * 6)
    assert head_of(dead / "outbox.db") == unit.outbox.head()
    unit.outbox.close()
    unit.path = dead / "outbox.db"
    unit.open()
    assert unit.say(unit_draft(unit.clock)).seq == 5


def judged(scenario: Scenario, run: Run) -> dict[str, bool]:
    return {check.name: check.ok for check in judge(scenario, run)}


def test_a_missing_a_stray_a_late_and_a_disordered_event_are_seen(tmp_path: Path) -> None:
    scenario = load(tmp_path, GOOD.replace("condition: started", "condition: camera_back, between: [1, 2]"))
    unit = SigningUnit(tmp_path / "outbox.db")
    one, two = (Arrival(event, 1.5, "", 800) for event in events_of(unit, 2))
    expected = "unit camera_back once from 1 to 2 s"
    assert all(judged(scenario, Run("test", arrivals=[one])).values())
    assert judged(scenario, Run("test"))[expected] is False
    assert judged(scenario, Run("test", arrivals=[one, two]))["nothing else"] is False
    assert judged(scenario, Run("test", arrivals=[replace(one, at_s=2.5)]))[expected] is False
    assert judged(scenario, Run("test", slack_s=1, arrivals=[replace(one, at_s=2.5)]))[expected] is True
    assert judged(scenario, Run("test", arrivals=[two, one]))["in order"] is False
    assert judged(scenario, Run("test", arrivals=[replace(one, size=5000)]))["at most 1400 bytes of an event"] is False
    assert judged(scenario, Run("test", arrivals=[one], ended="disk full"))["ends: clean"] is False
    run = Run("test", arrivals=[one])
    run.refused["fork"] = 1
    assert judged(scenario, run)["every event verified"] is False


def test_reports_tell_what_failed_to_people_programs_and_build_servers() -> None:
    checks = (Check("a", True, "fine"), Check("b", False, "<broken> & odd"))
    verdicts = [
        Verdict("first", "in-process", "a promise", checks, Run("in-process")),
        Verdict("second", "service", "a promise", (), None, "needs a clock"),
    ]
    assert not verdicts[0].ok
    suites = ET.fromstring(as_junit(verdicts))  # written by ourselves a line above
    assert [(suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in suites] == [
        ("2", "1", "0"),
        ("1", "0", "1"),
    ]
    assert [one["ok"] for one in json.loads(json.dumps(as_json(verdicts)))] == [False, True]
    assert table(verdicts, every_check=False).row_count == 3
    assert table(verdicts, every_check=True).row_count == 4


def test_the_agenda_is_kept_in_order_as_time_passes() -> None:
    clock, done = AgendaClock(START, "synced"), list[tuple[str, float]]()

    def note(what: str) -> None:
        done.append((what, clock.monotonic_ns() / 1e9))

    ticks = clock.every(1, lambda: note("tick"))
    clock.after(1.5, lambda: note("once"))
    clock.sleep(2.2)
    ticks.cancelled = True
    clock.sleep(5)
    assert done == [("tick", 1.0), ("once", 1.5), ("tick", 2.0)]
    assert clock.monotonic_ns() == 7_200_000_000


def test_an_offset_moves_the_wall_clock_alone(tmp_path: Path) -> None:
    say_offset(tmp_path / "clock.json", 86_400, "unsynced")
    clock = OffsetClock(tmp_path / "clock.json")
    ahead = (clock.now() - datetime.now(UTC)).total_seconds()
    assert 86_399 < ahead < 86_460
    assert clock.state() == "unsynced"


def test_slopes_leave_the_warm_up_out() -> None:
    warm = [(at, 50.0 + at / 60) for at in range(0, 300, 30)]
    level = [(at, 60.0 + at / 3600) for at in range(300, 3600, 30)]
    found = slope(warm + level)
    assert found is not None
    assert found == pytest.approx(1.0, abs=0.01)
    assert slope(warm) is None
