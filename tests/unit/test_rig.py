# SPDX-License-Identifier: Apache-2.0
"""The rig itself: a wrong scenario is answered with its line, a broken promise is seen, and the books are kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.errors import ConfigError
from agent.outbox.numbers import Head, numbers_path
from agent.subscribe.verify import VerifiedEvent
from tests.simulators.signing_unit import SigningUnit, unit_draft, verifier_of
from tools.lib.rig.clock import AgendaClock, OffsetClock, say_offset
from tools.lib.rig.installation import apply
from tools.lib.rig.ledger import balance
from tools.lib.rig.process import head_of, tear
from tools.lib.rig.scenario import Scenario, load_scenario, load_scenarios
from tools.lib.rig.soak import slope

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
        ("at: 1, do: kill", "at: 1, do: disk_full, until: 6", r"one.yaml:7: faults\[0\]: 'until' is after the end"),
        (
            "  - {at: 1, do: kill}",
            "  - {at: 1, do: broker_down, until: 3}\n  - {at: 2, do: link_slow, until: 4, delay_ms: 9}",
            r"one.yaml:8: faults\[1\]: must begin after 3 s: one fault of the link at a time",
        ),
        (
            "  - {at: 1, do: kill}",
            "  - {at: 2, do: disk_full, until: 4}\n  - {at: 1, do: disk_full, until: 3}",
            r"one.yaml:7: faults\[0\]: must begin after 3 s: one fault at a time",
        ),
        ("expect:", "resent: [2, 1]\nexpect:", "give 'resent' as"),
        ("script:\n  duration: 5", "video: nowhere.mp4\nseconds: 5", r"one.yaml:2: video: there is no such file"),
        ("expect:", "slack_s: -1\nexpect:", "one.yaml:8: slack_s"),
    ],
)
def test_a_wrong_scenario_is_answered_with_line_and_key(tmp_path: Path, was: str, is_now: str, complaint: str) -> None:
    assert was in GOOD
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, GOOD.replace(was, is_now))


def test_faults_of_different_things_may_overlap(tmp_path: Path) -> None:
    both = "  - {at: 1, do: broker_down, until: 4}\n  - {at: 2, do: disk_full, until: 3}\n  - {at: 2, do: link_cut}"
    assert len(load(tmp_path, GOOD.replace("  - {at: 1, do: kill}", both)).faults) == 3


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"]
    for file, text in zip(files, ("promis: 1\n", GOOD, GOOD.replace("do: kill", "do: kil")), strict=True):
        file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_scenarios(files)
    assert "a.yaml:1: promis" in str(error.value)
    assert "c.yaml:7: faults[0]" in str(error.value)


def test_a_configuration_of_the_wrong_shape_is_refused_with_its_key() -> None:
    content = {"profile": "demo", "events": {"presence": True}}
    apply(content, {"events.presence": None, "events.hold": 5, "absent": None})
    assert content == {"profile": "demo", "events": {"hold": 5}}
    with pytest.raises(ConfigError, match=r"profile\.x: 'profile' has a value and no keys below it"):
        apply(content, {"profile.x": 1})


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
    for file in (*tmp_path.glob("outbox.db*"), numbers_path(unit.path)):
        if file.is_file():
            (dead / file.name).write_bytes(file.read_bytes())
    assert head_of(dead / "outbox.db") == unit.outbox.head()
    tear(dead / "outbox.db", bytes(range(256)) * 6)
    assert head_of(dead / "outbox.db") == unit.outbox.head()
    unit.outbox.close()
    unit.path = dead / "outbox.db"
    unit.open()
    assert unit.say(unit_draft(unit.clock)).seq == 5


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
