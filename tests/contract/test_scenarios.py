# SPDX-License-Identifier: Apache-2.0
"""Every scenario's promise holds for a whole unit in this process, and does not hold by itself without its fault.

And the same scenario gives the same bytes. A scene goes on for as long as a slow machine or head needs for another
challenge; here it ends where one is over, and with POSTERN_EXHAUSTIVE=1 where it says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import replace

from tools.lib.rig import faults
from tools.lib.rig.__main__ import SCENARIOS
from tools.lib.rig.inprocess import play_here
from tools.lib.rig.judge import judge
from tools.lib.rig.outcome import Run
from tools.lib.rig.scenario import DEFAULT_START, Enrolled, Scenario, load_scenario

EXHAUSTIVE = os.environ.get("POSTERN_EXHAUSTIVE") == "1"
pytestmark = pytest.mark.timeout(
    3600 if EXHAUSTIVE else 600
)  # each takes about two seconds of processor time; machines may be busy

FILES = sorted(SCENARIOS.glob("*.yaml"))  # read by the tests alone: each process that collects them would read all
# One with chance in it (jitter of reconnecting, a torn write), one with commands and keys.
REPEATED = ("power-cut", "withdrawal-in-view")
CHALLENGE_S = 16.0  # from the last thing that happens by itself; twelve are seen
ASKED_FOR = {
    "single-person",
    "two-at-once",
    "stranger",
    "twins",
    "lookalike",
    "lookalikes-blended",
    "lookalikes-in-an-office",
    "siblings",
    "low-light",
    "backlight",
    "motion-blur",
    "occlusion",
    "turned-head",
    "tiny-face",
    "crowd-of-eight",
    "leaves-and-returns",
    "withdrawal-in-view",
    "consent-expires-at-midnight",
    "epoch-roll-over",
    "clock-ten-years-back",
    "clock-ten-years-forward",
    "broker-outage",
    "broker-slow",
    "answers-lost",
    "link-refused",
    "link-half-open",
    "camera-unplugged",
    "disk-full",
    "disk-slow",
    "model-altered",
    "configuration-reload",
    "killed",
    "power-cut",
    "stands-still",
    "walks-slowly",
    "dark-coat",
    "slow-light",
    "rain",
    "flicker",
    "insect",
    "flag",
    "zone-view",
    "checkpoints",
    "locker",
    "office-door",
    "dispenser",
    "boarding",
    "driver-check",
    "button-key",
    "button-liveness",
    "liveness-turning-head",
    "liveness-flat-print",
    "liveness-bent-print",
    "liveness-tablet",
    "liveness-paper-mask",
    "liveness-passive-bent-print",
    "liveness-passive-turning-head",
    "liveness-depth-bent-print",
    "liveness-depth-turning-head",
}


def play(scenario: Scenario, folder: Path) -> Run:
    run = play_here(scenario if EXHAUSTIVE else shortened(scenario), folder)
    if isinstance(run, str):
        pytest.skip(run)  # disk-slow: tests/fault/test_rig_service.py plays it
    return run


def shortened(scenario: Scenario) -> Scenario:
    """Of a scene with a challenge: to the end of one after the last that happens, or is expected to begin, in it."""
    view = scenario.view()
    if view is None or not any(person.obeys or person.attack for person in view.people):
        return scenario
    times = [one.between[0] for one in (*scenario.expect, *(scenario.pulses or ()))]
    for person in view.people:
        times += [person.appears, *(key.at for key in person.path)]
        times += [person.leaves] if person.leaves < scenario.seconds else []
        times += [key.at for key in getattr(person.attack, "plays", ())]
    times += [until for token in scenario.tokens for _, until in token.times]
    for fault in scenario.faults:
        times += [getattr(fault, "until", fault.at), fault.at + getattr(fault, "window_s", 0.0)]
    return replace(scenario, seconds=min(scenario.seconds, max(times) + CHALLENGE_S))


def wrong(scenario: Scenario, run: Run) -> list[str]:
    return [f"{check.name}: {check.found}" for check in judge(scenario, run) if check.ok is False]


def faultless(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """The scenario without each of the things that go wrong in it, one at a time."""
    for number, fault in enumerate(scenario.faults):
        others = (*scenario.faults[:number], *scenario.faults[number + 1 :])
        yield f"{fault.__struct_config__.tag}-{number}", replace(scenario, faults=others)
    if scenario.start != DEFAULT_START:
        yield "start", replace(scenario, start=DEFAULT_START)
    if any(one.expires_at is not None for one in scenario.enrolled):
        yield "expires_at", replace(scenario, enrolled=tuple(Enrolled(who=one.who) for one in scenario.enrolled))


FAULTS = {one.__struct_config__.tag for one in get_args(faults.Fault)}
NOT_PLAYED = {"disk_slow", "link_cut"}  # fault/test_rig_service.py plays the one, no scenario has the other
KINDS = sorted((FAULTS | {"start", "expires_at"}) - NOT_PLAYED)  # of things that can go wrong
ONLY_LOGGED = ("configuration-reload-without-reload-0",)  # a file that is refused changes no event


def mutants(kind: str) -> dict[str, Scenario]:
    """Scenarios without a thing that goes wrong in them: the shortest, as what judges a kind judges it in each."""
    found = {
        f"{file.stem}-without-{name}": mutant
        for file in FILES
        if re.search(rf"\b{kind}\b", file.read_text())
        for name, mutant in faultless(load_scenario(file))
        if name.rstrip("-0123456789") == kind and not mutant.needs_process
    }
    in_order = sorted(found, key=lambda name: (found[name].seconds, name))
    return {name: found[name] for name in in_order[: None if EXHAUSTIVE else 1]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_the_scenario_promises_holds(file: Path, tmp_path: Path) -> None:
    scenario = load_scenario(file)
    run = play(scenario, tmp_path / "first")
    assert not wrong(scenario, run), f"{scenario.promise}\n" + "\n".join(run.log or ())
    if file.stem in REPEATED:
        again = run.same_as(play(scenario, tmp_path / "again"))
        assert again.ok, again.found
        assert len(run.messages) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_scenario_notices_when_its_fault_does_not_happen(kind: str, tmp_path: Path) -> None:
    without = mutants(kind)
    assert without, "no scenario has it"
    for name, mutant in without.items():
        run = play(mutant, tmp_path / name)
        assert wrong(mutant if name in ONLY_LOGGED else replace(mutant, log=()), run), name


def test_another_seed_signs_with_other_keys(tmp_path: Path) -> None:
    scenario = load_scenario(SCENARIOS / "single-person.yaml")
    other = replace(scenario, seed=7)
    assert not play(scenario, tmp_path / "a").same_as(play(other, tmp_path / "b")).ok


def test_there_is_a_scenario_for_everything_that_was_asked_for() -> None:
    assert {file.stem for file in FILES} >= ASKED_FOR
