# SPDX-License-Identifier: Apache-2.0
"""The judge of the rig: whatever a run lacks, adds, swaps, delays or repeats is a check that does not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.outbox.draft import Draft
from tests.simulators.signing_unit import SigningUnit, match_draft, unit_draft, verifier_of
from tools.lib.rig.board import Pulse
from tools.lib.rig.judge import judge
from tools.lib.rig.outcome import Arrival, Measured, Run
from tools.lib.rig.scenario import Scenario, load_scenario

TEXT = """\
promise: Whatever happens here is what the scenario says.
script: {duration: 9}
enrolled: [{who: person-01}]
expect:
"""
CAMERA = "  - {event: unit, condition: camera_back%s}\n"
MATCH = "  - {event: match, who: person-01%s}\n"


def scenario(folder: Path, expect: str, more: str = "") -> Scenario:
    file = folder / "one.yaml"
    file.write_text(TEXT + expect + more)
    return load_scenario(file)


def arrivals(folder: Path, *drafts: Draft | None) -> list[Arrival]:
    """A second apart; None is one that the unit signed and nobody received."""
    unit = SigningUnit(folder / "outbox.db")
    verifier, events = verifier_of(unit), []
    for number, draft in enumerate(drafts, start=1):
        row = unit.say(draft or unit_draft(unit.clock))
        if draft is not None:
            event = verifier.check(unit.topic(row), row.payload, unit.clock.now())
            events.append(Arrival(event, float(number), "person-01" if draft.kind == "match" else "", 800))
    return events


@pytest.fixture
def camera(tmp_path: Path) -> Draft:
    return unit_draft(SigningUnit(tmp_path / "drafts.db").clock)


@pytest.fixture
def match(tmp_path: Path) -> Draft:
    return match_draft(SigningUnit(tmp_path / "drafts.db").clock)


def judged(scenario: Scenario, run: Run) -> dict[str, bool | None]:
    return {check.name: check.ok for check in judge(scenario, run)}


def broken(scenario: Scenario, run: Run) -> list[str]:
    return [name for name, ok in judged(scenario, run).items() if ok is False]


def test_a_missing_a_stray_a_late_and_a_disordered_event_are_seen(tmp_path: Path, camera: Draft) -> None:
    one_expected = scenario(tmp_path, CAMERA % ", between: [1, 2]")
    one, two = (replace(found, at_s=1.5) for found in arrivals(tmp_path, camera, camera))
    expected = "unit camera_back once from 1 to 2 s"
    assert broken(one_expected, Run("test", log=[], arrivals=[one])) == []
    assert broken(one_expected, Run("test", log=[])) == [expected]
    assert broken(one_expected, Run("test", log=[], arrivals=[one, two])) == ["nothing else"]
    assert "in order of their numbers" in broken(one_expected, Run("test", log=[], arrivals=[two, one]))
    assert broken(one_expected, Run("test", log=[], arrivals=[replace(one, size=5000)])) == [
        "at most 1400 bytes of an event"
    ]
    assert broken(one_expected, Run("test", log=[], arrivals=[one], ended="disk full")) == ["ends: clean"]
    run = Run("test", log=[], arrivals=[one])
    run.refused["fork"] = 1
    assert broken(one_expected, run) == ["every event verified"]


def test_slack_is_for_what_is_late_and_never_for_what_is_early(tmp_path: Path, camera: Draft) -> None:
    expected = scenario(tmp_path, CAMERA % ", between: [1, 2]")
    (one,) = arrivals(tmp_path, camera)
    for slack_s, at_s, holds in ((0, 2.1, False), (1, 2.1, True), (1, 3.1, False), (1, 0.9, False), (0, 1.0, True)):
        assert (not broken(expected, Run("test", slack_s, log=[], arrivals=[replace(one, at_s=at_s)]))) is holds


def test_events_in_another_order_than_the_file_says_are_seen(tmp_path: Path, camera: Draft, match: Draft) -> None:
    found = arrivals(tmp_path, camera, match)
    right = scenario(tmp_path, CAMERA % "" + MATCH % "")
    assert broken(right, Run("test", 15, log=[], arrivals=found)) == []
    swapped = scenario(tmp_path, MATCH % "" + CAMERA % "")
    assert "in the order of the file" in broken(swapped, Run("test", 15, log=[], arrivals=found))
    optional = scenario(tmp_path, MATCH % ", times: [0, 1]" + CAMERA % "" + MATCH % ", times: [0, 1]")
    assert broken(optional, Run("test", log=[], arrivals=found)) == []


def test_what_comes_too_long_after_the_event_before_it_is_seen_whatever_the_slack(
    tmp_path: Path, camera: Draft, match: Draft
) -> None:
    found = arrivals(tmp_path, camera, match)  # a second apart
    for within_ms, wrong in ((1000, []), (999, ["match of person-01 within 999 ms"])):
        expected = scenario(tmp_path, CAMERA % "" + MATCH % f", within_ms: {within_ms}")
        assert broken(expected, Run("test", 15, log=[], arrivals=found)) == wrong
    alone = scenario(tmp_path, MATCH % ", within_ms: 10" + CAMERA % ", times: [0, 1]")
    assert broken(alone, Run("test", log=[], arrivals=found[1:])) == ["match of person-01 within 10 ms"]


def test_a_pseudonym_that_changes_or_stays_against_the_promise_is_seen(tmp_path: Path, match: Draft) -> None:
    other = match_draft(SigningUnit(tmp_path / "drafts.db").clock, subject="p1_" + "ab" * 16)
    for name, drafts, wrong in (("same", (match, other), True), ("same", (match, match), False)):
        folder = tmp_path / f"{name}-{wrong}"
        folder.mkdir()
        found = arrivals(folder, *drafts)
        for promised in ("same", "new"):
            expected = scenario(tmp_path, MATCH % "" + MATCH % f", pseudonym: {promised}")
            name_of_it = f"match of person-01 under the {promised} pseudonym"
            holds = judged(expected, Run("test", log=[], arrivals=found))[name_of_it]
            assert holds is (wrong if promised == "new" else not wrong)
    first = scenario(tmp_path, MATCH % ", pseudonym: new")
    assert broken(first, Run("test", log=[], arrivals=found[:1])), "nothing to compare it with is no promise kept"


def test_messages_that_had_to_come_again_and_did_not_are_seen(tmp_path: Path, camera: Draft) -> None:
    expected = scenario(tmp_path, CAMERA % "", "resent: [1, 2]\n")
    for again, holds in ((0, False), (1, True), (2, True), (3, False)):
        run = Run("test", log=[], arrivals=arrivals(tmp_path, camera)[:1])
        run.refused["duplicate"] = again
        (tmp_path / "outbox.db").unlink()
        assert (not broken(expected, run)) is holds


def test_an_event_that_was_lost_on_the_way_from_a_unit_far_away_is_seen(tmp_path: Path, camera: Draft) -> None:
    expected = scenario(tmp_path, CAMERA % ", times: [1, 9]")
    whole = arrivals(tmp_path, camera, camera, camera)
    assert broken(expected, Run("remote", arrivals=whole)) == []
    for file in tmp_path.glob("outbox.*"):
        file.unlink()
    holed = arrivals(tmp_path, camera, camera, None, camera)
    assert broken(expected, Run("remote", arrivals=holed)) == ["no number is missing from 1 to 4"]


def test_what_a_target_cannot_tell_is_neither_kept_nor_broken_and_is_named(tmp_path: Path, camera: Draft) -> None:
    names = ("disk_bytes", "memory_mib", "together_mib", "threads", "open_files", "embeddings")
    more = f"log: [anything]\nbudgets: {{{', '.join(f'{name}: 9' for name in names)}}}\n"
    expected = scenario(tmp_path, CAMERA % "", more)
    remote = judged(expected, Run("remote", arrivals=arrivals(tmp_path, camera)))
    untold = {name for name, ok in remote.items() if ok is None}
    assert untold == {
        "log: anything",
        "ends: clean",
        "at most 9 embeddings made",
        "at most 9 bytes more on disk",
        "at most 9 MiB of memory",
        "at most 9 MiB of memory of all processes",
        "at most 9 threads",
        "at most 9 open files",
    }
    much = Measured(embeddings=10, disk_bytes=10, memory_mib=10, together_mib=10, threads=10, open_files=10)
    (tmp_path / "outbox.db").unlink()
    here = broken(expected, Run("service", log=["anything"], arrivals=arrivals(tmp_path, camera), measured=much))
    assert set(here) == untold - {"log: anything", "ends: clean"}


def test_a_unit_that_crashes_without_a_word_does_not_end_clean(tmp_path: Path, camera: Draft) -> None:
    expected = scenario(tmp_path, CAMERA % "")
    run = Run("service", log=[], arrivals=arrivals(tmp_path, camera), status=-11)
    found = {check.name: check for check in judge(expected, run)}["ends: clean"]
    assert not found.ok
    assert found.found == "without a word (killed by SIGSEGV)"


def test_a_unit_that_nobody_hears_breaks_the_promise(tmp_path: Path) -> None:
    expected = scenario(tmp_path, CAMERA % ", times: [0, 1]")
    (check,) = judge(expected, Run("remote", silent="door-3 said nothing"))
    assert check.ok is False
    assert check.found == "door-3 said nothing"


@pytest.mark.parametrize(
    ("on", "holds"), [({23, 24}, True), ({23, 24, 25}, True), ({23}, False), ({23, 24, 27}, False), (None, None)]
)
def test_where_chance_draws_the_lamps_the_strike_stays_dark_all_the_same(
    tmp_path: Path, camera: Draft, on: set[int] | None, holds: bool | None
) -> None:
    shown = scenario(tmp_path, CAMERA % "", "lit: [23, 24]\ndark: [27]\n")
    assert shown.needs_board
    pulses = None if on is None else [Pulse(line, 1.0, 2.0) for line in sorted(on)]
    run = Run("in-process", arrivals=arrivals(tmp_path, camera), pulses=pulses)
    assert judged(shown, run)["lines on: 23 24; never: 27"] is holds
