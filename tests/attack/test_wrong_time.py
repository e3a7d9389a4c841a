# SPDX-License-Identifier: Apache-2.0
"""A clock that lies: whatever it says, and however often, nothing is destroyed that was not due by honest time.

Each duty that destroys for age is tried with each jump from 11 seconds to 20 years, forward and back, synchronised and
not, while the unit runs and across a restart. Honest time is the simulated clock without its jumps.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clock import SYNC_LASTS_S, TIME_ERROR, ClockState, SimulatedClock, SystemClock
from agent.errors import ConsentError
from agent.gallery.consent import ConsentRecord
from agent.outbox.epoch_keys import EpochKeys, save
from agent.protocol.pseudonym import EpochKey, epoch_of
from agent.unit.confirm import Confirming
from agent.unit.housekeeping import CLOCK_STEP_EVERY_S, CLOCK_STEPS_AT_ONCE, Duties, Housekeeping
from tests.simulators.forbidden_calls import CLOCK_CALLS, FILTERLESS
from tests.simulators.gallery_life import MODEL, captures, consent, open_store
from tests.simulators.unit_life import enrol, opened, write_unit

DAY = 86_400.0
OWNER = "sha256:" + "0" * 64
JUMPS = (11, 60, 3600, DAY, 8 * DAY, 31 * DAY, 100 * DAY, 366 * DAY, 1096 * DAY, 7305 * DAY)
WAYS = [sign * jump for jump in JUMPS for sign in (1, -1)]
STATES: tuple[ClockState, ...] = ("synced", "unsynced")
EVERY = pytest.mark.parametrize("state", STATES)
MANY = 400 if os.environ.get("POSTERN_EXHAUSTIVE") == "1" else 40


class Unit:
    """A gallery and epoch keys of a unit that has run for a day: it knows the time. ``honest`` has no jumps."""

    def __init__(self, folder: Path, ran_s: float = DAY + 1) -> None:
        self.folder, self.rng = folder, np.random.default_rng(5)
        self.clock, self.honest = SimulatedClock(), SimulatedClock()
        self.stack = ExitStack()
        self._open()
        self.run(ran_s)
        self.people: dict[bytes, ConsentRecord] = {}
        for days in (0.5, 3, 40, 400):
            record = consent(self.honest.now(), days=days)
            self.people[self.store.enrol(captures(self.rng), consent=record, model=MODEL)] = record
        self.withdrawn = consent(self.honest.now(), days=500)
        self.gone = self.store.enrol(captures(self.rng), consent=self.withdrawn, model=MODEL)
        self.store.erase(self.gone)
        secret = EpochKey("hq", "access", "2026-W01", "A" * 43)
        weeks = [epoch_of(self.honest.now() + timedelta(weeks=n)) for n in range(3)]
        self.keys_file = folder / "epoch-keys.json"
        save(self.keys_file, [EpochKey("hq", "access", week, secret.key) for week in weeks])
        self.keys = EpochKeys.load(self.keys_file)

    def _open(self) -> None:
        self.store = self.stack.enter_context(open_store(self.folder, self.clock))

    def run(self, seconds: float, looks: int = 5) -> None:
        """Let the unit run: it looks at all that may be due."""
        for _ in range(looks):
            self.clock.advance(seconds / looks)
            self.honest.advance(seconds / looks)
            self.store.sweep(self.clock.now())

    def jump(self, seconds: float, state: ClockState) -> None:
        self.clock.step_wall(seconds, state)

    def restart(self, *, off: float = 0.0) -> None:
        """Power off and on: the monotonic clock begins anew, the wall clock goes on as it was."""
        self.stack.close()
        before = self.clock
        self.honest.advance(off)
        self.clock = SimulatedClock(before.now() + timedelta(seconds=off), before.state())
        self._open()
        self.store.sweep(self.clock.now())

    def use(self) -> None:
        """Announce somebody: this is when epoch keys are destroyed. Without a key for the week nobody is."""
        settled = self.store._ageing.settled()
        held = set(self.keys.epochs("access"))
        try:
            self.keys.pseudonym(b"subject", "access", self.clock.now(), settled=settled)
        except Exception:  # noqa: BLE001 - the wrong week has no key
            assert held
        for week in held - set(self.keys.epochs("access")):
            assert week < epoch_of(self.honest.now()), "a key was destroyed before its week was over"

    def check(self) -> None:
        """By honest time nobody was lost, and what protects the withdrawn is there."""
        there = set(self.store.subjects())
        lost = {subject for subject, record in self.people.items() if subject not in there}
        early = [self.people[subject] for subject in lost if self.people[subject].expires_at > self.honest.now()]
        assert not early, "somebody was erased whose time was not over"
        assert len(self.store.tombstones()) >= 1 + len(lost)
        self.use()

    def close(self) -> None:
        self.stack.close()


@pytest.fixture
def unit(work: Path) -> Iterator[Unit]:
    made = Unit(work)
    yield made
    made.close()


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_a_jump_destroys_nothing_that_was_not_due(unit: Unit, jump: float, state: ClockState) -> None:
    unit.jump(jump, state)
    unit.run(3600)
    unit.check()
    unit.jump(-jump, "synced")
    unit.run(3600)
    unit.check()


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_nor_does_one_across_a_restart(unit: Unit, jump: float, state: ClockState) -> None:
    unit.jump(jump, state)
    unit.restart()
    unit.check()
    unit.run(3600)
    unit.check()
    unit.restart(off=DAY / 2)
    unit.check()
    unit.jump(-jump, "synced")
    unit.restart()
    unit.run(DAY / 4)
    unit.check()


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_a_unit_in_its_first_day_destroys_nothing_for_its_age(work: Path, jump: float, state: ClockState) -> None:
    """It has no settled time yet: nobody and nothing goes, not even what is due; what seems past matches nobody."""
    unit = Unit(work, ran_s=1)
    assert unit.store._ageing.settled() is None
    held = unit.keys.epochs("access")
    for way in (jump, -jump):
        unit.jump(way, state)
        unit.run(3600)
        unit.restart()
        unit.run(3600)
        unit.check()
        assert len(unit.store.subjects()) == len(unit.people)
        assert unit.keys.epochs("access") == held
    with pytest.raises(ConsentError):
        unit.store.enrol(captures(unit.rng), consent=unit.withdrawn, model=MODEL)
    unit.close()


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_a_withdrawn_consent_stays_withdrawn_whatever_time_it_is(unit: Unit, jump: float, state: ClockState) -> None:
    """A false time used to erase the tombstone with the next erasure; put right, the consent enrolled again."""
    unit.jump(jump, state)
    unit.run(60)
    other = next(iter(unit.people))
    unit.store.erase(other)
    unit.jump(-jump, "synced")
    unit.run(60)
    assert unit.store.erase(unit.gone).reason == "withdrawn"
    for subject in (None, unit.gone):
        with pytest.raises(ConsentError):
            unit.store.enrol(captures(unit.rng), consent=unit.withdrawn, model=MODEL, subject=subject)


@EVERY
@pytest.mark.parametrize("jump", [-jump for jump in JUMPS])
def test_whoever_is_erased_while_the_clock_is_behind_does_not_return(
    unit: Unit, jump: float, state: ClockState
) -> None:
    unit.jump(jump, state)
    person, record = list(unit.people.items())[-1]
    unit.store.erase(person)
    unit.jump(-jump, "synced")
    unit.run(60)
    unit.store.erase(next(iter(unit.people)))  # an erasure drops what is old
    assert unit.store.erase(person).reason == "withdrawn"
    with pytest.raises(ConsentError):
        unit.store.enrol(captures(unit.rng), consent=record, model=MODEL)


@settings(max_examples=MANY, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(WAYS), st.floats(11, 7305 * DAY), st.floats(-7305 * DAY, -11)),
            st.sampled_from(STATES),
            st.floats(1, DAY / 8),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_nor_do_many_jumps_in_any_order(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    unit = Unit(tmp_path_factory.mktemp("unit"))
    try:
        for jump, state, ran_s, restarts in steps:
            unit.jump(max(jump, -(unit.clock.now().timestamp() - DAY)), state)
            if restarts:
                unit.restart()
            unit.run(ran_s)
            unit.check()
    finally:
        unit.close()


@pytest.mark.parametrize("year", [3000, 9000, 9999])
def test_a_clock_at_the_end_of_all_dates_makes_nothing_begin_anew(unit: Unit, year: int) -> None:
    jump = (datetime(year, 12, 30, tzinfo=UTC) - unit.clock.now()).total_seconds()
    unit.jump(jump, "synced")
    unit.run(3600)
    for _ in range(2):
        unit.restart()
        unit.check()
    unit.store.erase(next(iter(unit.people)))
    unit.jump(-jump, "synced")
    unit.restart()
    unit.run(DAY / 4)
    assert len(unit.store.subjects()) == 3
    assert unit.store._ageing.settled() is not None


def test_what_is_due_by_honest_time_goes_although_the_clock_jumped_back(unit: Unit) -> None:
    unit.jump(-366 * DAY, "unsynced")
    unit.run(4 * DAY)
    assert len(unit.store.subjects()) == 2, "a unit that does not know the time goes by its running time"


def test_what_seems_past_its_time_matches_nobody_meanwhile(unit: Unit) -> None:
    unit.jump(60 * DAY, "synced")
    unit.store.sweep(unit.clock.now())
    assert len(unit.store.references(MODEL).subjects) == 1
    assert len(unit.store.subjects()) == 4


def test_a_unit_that_was_off_over_night_catches_up_by_itself(unit: Unit) -> None:
    for _ in range(8):
        unit.restart(off=DAY / 2)
        unit.run(DAY / 2)
        unit.check()
    assert len(unit.store.subjects()) == 2, "those of half a day and of three days are gone"


def test_a_long_lead_waits_for_the_site_or_for_a_month(unit: Unit) -> None:
    unit.restart(off=100 * DAY)
    unit.run(10 * DAY, looks=100)
    assert len(unit.store.subjects()) == 4 - 2, "ten days of running are sure"
    assert unit.store._ageing.asks()
    unit.run(21 * DAY, looks=100)
    assert len(unit.store.subjects()) == 1
    assert not unit.store._ageing.asks()


def test_the_site_says_that_the_time_is_right(unit: Unit) -> None:
    unit.restart(off=100 * DAY)
    assert unit.store._ageing.asks()
    Confirming(unit.store._ageing, None, Silent(), unit.clock).time(unit.clock.now())  # type: ignore[arg-type]
    unit.store.sweep(unit.clock.now())
    assert len(unit.store.subjects()) == 1


class Silent:
    def append(self, *_: object) -> None:
        return None


def test_a_mark_of_time_that_is_old_or_from_the_future_means_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "synchronized"
    clock = SystemClock(mark=mark)
    clock._kernel_says = lambda: TIME_ERROR  # type: ignore[method-assign]
    assert clock.state() == "unsynced"
    now = clock.now().timestamp()
    for age_s, state in (
        (1, "synced"),
        (SYNC_LASTS_S - 60, "synced"),
        (SYNC_LASTS_S + 60, "unsynced"),
        (400 * DAY, "unsynced"),
        (-3600, "unsynced"),
    ):
        mark.touch()
        os.utime(mark, (now - age_s, now - age_s))
        assert clock.state() == state, age_s


@pytest.mark.parametrize(("answer", "state"), [(0, "synced"), (4, "synced"), (5, "unsynced"), (-1, "unsynced")])
def test_what_the_kernel_says_counts_and_what_it_does_not_say_is_no(tmp_path: Path, answer: int, state: str) -> None:
    clock = SystemClock(mark=tmp_path / "none")
    clock._kernel_says = lambda: answer  # type: ignore[method-assign]
    assert clock.state() == state
    assert (clock.refusal() is None) == (answer >= 0)


ASK = """
from agent.clock import SystemClock
from pathlib import Path
clock = SystemClock(mark=Path("/nowhere"))
print(clock.state(), clock.refusal())
"""


def test_a_sandbox_that_forbids_to_ask_is_told_as_that(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.simulators.forbidden_calls", *CLOCK_CALLS, "--", sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == FILTERLESS:
        pytest.skip("this machine takes no filter of system calls")
    assert done.stdout.split(maxsplit=1) == ["unsynced", f"{os.strerror(errno.EPERM)}\n"], done.stderr


@EVERY
@pytest.mark.parametrize("jump", WAYS)
def test_no_jump_across_a_restart_gives_a_right_twice(tmp_path: Path, jump: float, state: ClockState) -> None:
    config, clock = write_unit(tmp_path / "config.yaml", tmp_path / "unit"), SimulatedClock()
    with opened(config, clock) as stores:
        clock.advance(DAY + 1)
        stores.ageing.look()
        assert stores.rights.take("portion", OWNER, 540)
        clock.advance(100)
    clock.step_wall(jump, state)
    with opened(config, clock) as stores:
        assert not stores.rights.take("portion", OWNER, 540)
        clock.advance(60)
        assert not stores.rights.take("portion", OWNER, 540)
        clock.advance(540)
        assert stores.rights.take("portion", OWNER, 540), "nobody waits for ever"


@pytest.mark.parametrize("year", [1, 1970, 2038, 8999, 9999])
@pytest.mark.parametrize("zone", ["Z", "+05:00", "-05:00"])
def test_a_kept_time_from_the_end_of_all_dates_is_one_or_none(tmp_path: Path, year: int, zone: str) -> None:
    config, clock = write_unit(tmp_path / "config.yaml", tmp_path / "unit"), SimulatedClock()
    with opened(config, clock) as stores:
        enrol(stores, config, clock, np.random.default_rng(1))
    kept = config.outbox.path.with_name("time.json")
    for day in ("01-01T00:00:00", "12-31T23:59:59"):
        content = json.loads(kept.read_text()) | {"settled": f"{year:04}-{day}{zone}", "established": True}
        kept.write_text(json.dumps(content))
        with opened(config, clock) as stores:
            stores.gallery.sweep(clock.now())
            clock.advance(DAY + 1)
            stores.ageing.look()
            stores.ageing.settled()


def test_a_clock_that_two_services_pull_at_fills_no_queue(tmp_path: Path) -> None:
    clock, told = SimulatedClock(), []

    def nothing(*_: object) -> None: ...

    duties = Duties(
        retry=nothing,
        remind=nothing,
        configure=lambda: None,
        sweep=nothing,
        expire=nothing,
        disk_free=lambda: 1 << 40,
        unit_event=told.append,
        on_problem=nothing,
    )
    keeping = Housekeeping(duties, clock=clock)
    for second in range(600):
        clock.advance(1)
        clock.step_wall(3600 if second % 2 else -3600)
        keeping.tick()
    assert 2 <= len(told) <= 600 / CLOCK_STEP_EVERY_S + CLOCK_STEPS_AT_ONCE
    told.clear()
    clock.advance(CLOCK_STEPS_AT_ONCE * CLOCK_STEP_EVERY_S)
    keeping.tick()
    assert told == ["clock_step"], "the last steps are told, too"
    keeping.tick()
    assert len(told) == 1
