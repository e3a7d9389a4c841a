# SPDX-License-Identifier: Apache-2.0
"""The parts of a unit know of each other: each wire of the assembled service, by what happens when it is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.audit.chain import read_entries
from agent.camera.supervise import CameraNotice
from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.detect.track import MAX_MISSED_NS
from agent.door.liveness import CheckedLiveness
from agent.embed.records import Embedding
from agent.errors import RetryError, StorageError
from agent.match.policy import parse_policy
from agent.match.probe import Seen
from agent.match.records import Match
from agent.parse.strict_json import decode
from agent.protocol.event import Condition
from agent.protocol.subject import SubjectId
from agent.unit.assemble import load_key
from agent.unit.capturing import SESSION_NS
from agent.unit.forget import owner_of
from agent.unit.housekeeping import STORAGE_BACK_BYTES, STORAGE_LOW_BYTES, Duties, Housekeeping
from agent.unit.service import Service
from agent.unit.stores import Stores, open_stores
from tests.simulators.dark_unit import assembled, conditions
from tests.simulators.full_disk import no_file_grows_beyond
from tests.simulators.gallery_life import captures
from tests.simulators.quiet_unit import ROOT, Premises
from tests.simulators.signing_unit import START, match_draft
from tests.simulators.unit_life import agreed

HOLD_S = 60


class Unit:
    """A unit that could run, with two people, on a simulated clock."""

    def __init__(self, folder: Path) -> None:
        self.premises, self.clock = Premises(folder), SimulatedClock(START)
        self.config: Config = load_config(self.premises.config)
        with self.stores() as stores:
            consent = agreed(self.config, self.clock)
            model = parse_policy((ROOT / "models" / "policy.json").read_bytes()).model
            other = stores.gallery.enrol(captures(np.random.default_rng(7)), consent=consent, model=model)
            stores.outbox.append(match_draft(self.clock), owner=owner_of(other))
            (first,) = (one for one in stores.gallery.subjects() if one != other)
        self.people: tuple[SubjectId, SubjectId] = (first, other)

    def stores(self) -> AbstractContextManager[Stores]:
        return open_stores(self.config, load_key(self.config), self.clock)

    def running(self, **sections: Any) -> AbstractContextManager[Service]:
        if sections:
            self.premises.config.write_text(yaml.safe_dump(yaml.safe_load(self.premises.config.read_text()) | sections))
            self.config = load_config(self.premises.config)
        return assembled(self.config, self.clock)


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def about(service: Service, kind: str) -> list[dict[str, Any]]:
    """Events of one kind that wait."""
    events = [decode(row.payload, dict, 4096) for row in service._stores.outbox.pending(1000)]
    return [event["data"] for event in events if event["data"]["event_type"] == kind]


def kinds(config: Config) -> list[str]:
    return [entry.kind for entry in read_entries(config.audit.path)]


def sees_somebody(service: Service) -> Callable[[], int]:
    """Have the decider gather a crop of somebody; how many it holds."""
    vector = np.eye(128, dtype=np.float32)[5]
    service._decider.take(3, Seen(Embedding(vector, service._model), 1.0), service._clock.monotonic_ns())
    return lambda: service._decider._probes.crops(3)


# -- enrolments -------------------------------------------------------------------------------------------------------


def begin(unit: Unit, service: Service) -> Callable[[], bool]:
    """Begin an enrolment; whether it is open."""
    service._enrolment.begin("e1", agreed(unit.config, unit.clock))
    assert service._enrolment._open is not None
    return lambda: service._enrolment._open is not None


def test_a_stop_ends_an_enrolment(unit: Unit) -> None:
    with unit.running() as service:
        is_open = begin(unit, service)
        service.run(lambda: True)
        assert not is_open()
        assert service._enrolment.last("e1") == (None, ("stopping", "the unit stops; nothing was stored"))
        assert [one for one in conditions(service) if one in {"started", "stopping"}] == ["started", "stopping"]
        assert kinds(unit.config)[-1] == "stopped"


def test_a_lost_camera_ends_an_enrolment_and_its_return_does_not(unit: Unit, caplog: pytest.LogCaptureFixture) -> None:
    with unit.running() as service:
        is_open = begin(unit, service)
        service._on_camera(CameraNotice("camera_back", "it is back"))
        assert is_open()
        service._on_camera(CameraNotice("camera_lost", "no picture came"))
        assert not is_open()
        assert {"camera_lost", "camera_back"} <= set(conditions(service))
        told = ("camera_lost", "the camera was lost: begin again once it is back")
        assert service._enrolment.last("e1") == (None, told)
        assert caplog.messages[-2:] == ["camera_back: it is back", "camera_lost: no picture came"]


def test_an_enrolment_ends_at_its_time_also_while_no_frame_comes(unit: Unit) -> None:
    with unit.running() as service:
        service.run(lambda: True)
        is_open = begin(unit, service)
        unit.clock.advance(SESSION_NS / 1e9 - 1)
        service._camera.while_waiting()
        assert is_open()
        unit.clock.advance(2)
        service._camera.while_waiting()
        assert not is_open()


# -- faces are forgotten ----------------------------------------------------------------------------------------------


def test_a_stop_forgets_whoever_was_being_looked_at(unit: Unit) -> None:
    with unit.running() as service:
        crops = sees_somebody(service)
        assert crops() == 1
        service.run(lambda: True)
        assert crops() == 0


def test_so_does_a_camera_that_gives_no_frame(unit: Unit) -> None:
    with unit.running() as service:
        service.run(lambda: True)
        crops = sees_somebody(service)
        service._camera.while_waiting()
        unit.clock.advance(MAX_MISSED_NS / 1e9 + 0.1)
        assert crops() == 1
        service._camera.while_waiting()
        assert crops() == 0


def test_an_act_makes_void_what_was_seen_before_it(unit: Unit) -> None:
    button = {"kind": "button", "name": "door", "window_s": 40, "inputs": [{"kind": "command"}]}
    with unit.running(activation=button, liveness="require") as service:
        crops = sees_somebody(service)
        liveness = service._liveness
        assert isinstance(liveness, CheckedLiveness)
        liveness._passed[3] = unit.people[0]
        service._look_at_the_door()
        assert crops() == 1
        assert liveness._passed
        service._door.request.ask()
        service._look_at_the_door()
        assert crops() == 0
        assert not liveness._passed, "each act has a challenge of its own"


def test_a_match_ends_the_window(unit: Unit) -> None:
    button = {"kind": "button", "name": "door", "inputs": [{"kind": "command"}]}
    with unit.running(activation=button) as service:
        service._door.request.ask()
        service._look_at_the_door()
        gate = service._stages.gate
        assert gate.waits(unit.clock.monotonic_ns())
        service._record(Match(unit.people[0], "door", 0))
        assert not gate.waits(unit.clock.monotonic_ns())


def test_a_press_of_somebody_who_enrols_opens_no_window(unit: Unit) -> None:
    button = {"kind": "button", "name": "door", "inputs": [{"kind": "command"}]}
    with unit.running(activation=button) as service:
        pressed: list[int] = []
        service._door.request.ask()
        assert not service._door.between_frames(enrolling=True, press=pressed.append)
        assert not service._stages.gate.waits(unit.clock.monotonic_ns())
        assert not pressed, "a command is no act on the spot"


# -- erasures ---------------------------------------------------------------------------------------------------------


def present(service: Service, subject: SubjectId) -> None:
    service._presence.update([Match(subject, "door", service._clock.monotonic_ns())], service._clock.monotonic_ns())


def leaves(unit: Unit, service: Service) -> list[SubjectId]:
    """Who is said to have left once everybody has been away for long."""
    unit.clock.advance(HOLD_S + 1)
    return [change.subject for change in service._presence.update([], unit.clock.monotonic_ns())]


@pytest.mark.parametrize("how", ["erased", "withheld"])
def test_who_is_erased_or_past_their_time_is_neither_decided_about_nor_said_to_leave(unit: Unit, how: str) -> None:
    with unit.running() as service:
        for subject in unit.people:
            present(service, subject)
        crops = sees_somebody(service)
        if how == "erased":
            service._forgetting.erase(unit.people[0])
        else:
            service._withheld.put(unit.people[0])
        service._take_erasures()
        assert crops() == 0, "of no track is known whose it is"
        assert leaves(unit, service) == [unit.people[1]]


def test_a_match_that_was_queued_during_the_erasure_goes(unit: Unit) -> None:
    with unit.running() as service:
        before = len(about(service, "match"))
        service._forgetting.erase(unit.people[0])
        service._record(Match(unit.people[0], "door", 0))
        service._record(Match(unit.people[1], "door", 0))
        service._take_erasures()
        assert len(about(service, "match")) <= before + 1
        assert service._stores.outbox.erase(owner_of(unit.people[0])) == 0


def test_what_waits_for_a_full_disk_about_the_erased_is_dropped(unit: Unit) -> None:
    with unit.running() as service:
        with no_file_grows_beyond(0):
            for subject in unit.people:
                service._record(Match(subject, "door", 0))
        assert [owner for _, owner in service._recorder._waiting] == list(unit.people)
        service._forgetting.erase(unit.people[0])
        service._take_erasures()
        assert [owner for _, owner in service._recorder._waiting] == [unit.people[1]]
        service._recorder.retry()
        assert service._stores.outbox.erase(owner_of(unit.people[1])) == 2, "one of the enrolment, one that waited"


def test_a_start_completes_an_erasure_that_was_cut_off(unit: Unit) -> None:
    with unit.stores() as stores:
        stores.gallery.erase(unit.people[1])
        assert len(stores.outbox.pending(10)) == 1, "an event about them waits"
    with unit.running() as service:
        assert about(service, "match") == []


# -- what is announced ------------------------------------------------------------------------------------------------


def test_a_match_is_queued_for_its_owner_and_notes_the_use_of_the_reference(unit: Unit) -> None:
    with unit.running() as service:
        unit.clock.advance(5 * 86_400)
        service._record(Match(unit.people[0], "door", 0))
        held = service._stores.gallery.held(unit.people[0])
        assert held is not None
        assert held.last_used_on == unit.clock.now().date()
        assert service._stores.outbox.erase(owner_of(unit.people[0])) == 1


def test_a_face_that_failed_its_challenge_is_announced_as_nobody(unit: Unit) -> None:
    with unit.running() as service:
        before = len(about(service, "match"))
        service._record(Match(unit.people[0], "door", 0, liveness="failed"))
        assert len(about(service, "match")) == before
        service._record(Match(unit.people[0], "door", 0, liveness="passed"))
        assert len(about(service, "match")) == before + 1


def test_what_the_rules_open_stands_in_the_event(unit: Unit) -> None:
    rule = {"name": "staff", "then": ["gate"], "liveness": "unchecked: a photograph opens it"}
    with unit.running(outputs=[{"name": "gate", "kind": "event"}], rules=[rule]) as service:
        service._record(Match(unit.people[0], "door", 0))
        assert about(service, "match")[-1]["granted"] == "gate"


def test_a_question_compares_with_the_one_person_it_is_about(unit: Unit) -> None:
    with unit.running() as service:
        assert set(service._references().subjects) == set(unit.people)
        service._verification.begin("v1", unit.people[1], 10)
        service._verification.take()
        assert service._references().subjects == (unit.people[1],)


@pytest.mark.parametrize(
    ("condition", "kind"), [("storage_low", "storage_error"), ("clock_step", "clock_step"), ("tamper", "tamper")]
)
def test_what_an_auditor_must_know_stands_in_the_log_and_is_an_event(
    unit: Unit, condition: Condition, kind: str
) -> None:
    with unit.running() as service:
        service._on_condition(condition)
        assert condition in conditions(service)
    (entry,) = [one for one in read_entries(unit.config.audit.path) if one.kind == kind]
    assert entry.facts == {"condition": condition}


def test_nobody_is_compared_with_while_captures_are_taken_or_recognition_pauses(unit: Unit) -> None:
    with unit.running() as service:
        assert service._references().subjects
        service._paused.set()
        assert not service._references().subjects
        service._paused.clear()
        assert service._references().subjects
        is_open = begin(unit, service)
        assert is_open()
        assert not service._references().subjects
        service._enrolment.interrupt("stopping", "the unit stops; nothing was stored")
        assert service._references().subjects


def test_a_thread_that_is_left_after_a_run_ends_the_process_by_its_name(unit: Unit) -> None:
    with unit.running() as service:
        service.check_ended()
        service._housekeeping.start()
        with pytest.raises(RetryError) as left:
            service.check_ended()
        service._housekeeping.stop()
    what = "did not end in time: the unit ends, and has to be started anew"
    assert str(left.value) == f"postern-housekeeping {what}"


# -- housekeeping -----------------------------------------------------------------------------------------------------


class House:
    """Housekeeping whose duties write down that they were done."""

    def __init__(self, *, failing: str = "") -> None:
        self.clock, self.done, self.told, self.free = SimulatedClock(), [], [], 1 << 40
        self.problems: list[str] = []

        def duty(name: str) -> Callable[..., None]:
            def do(*_: object) -> None:
                self.done.append(name)
                if name == failing:
                    raise StorageError(name)

            return do

        self.keeping = Housekeeping(
            Duties(
                retry=duty("retry"),
                remind=duty("remind"),
                configure=duty("configure"),
                sweep=duty("sweep"),
                expire=duty("expire"),
                disk_free=lambda: self.free,
                unit_event=self.told.append,
                on_problem=lambda error: self.problems.append(str(error)),
            ),
            clock=self.clock,
        )

    def tick(self, *, step_s: float = 0, free: int = 1 << 40) -> None:
        self.free = free
        self.clock.advance(1)
        self.clock.step_wall(step_s)
        self.keeping.tick()


@pytest.mark.parametrize("failing", ["retry", "remind", "configure", "sweep", "expire"])
def test_no_duty_keeps_another_from_being_done(failing: str) -> None:
    house = House(failing=failing)
    house.tick()
    assert sorted(house.done) == ["configure", "expire", "remind", "retry", "sweep"]
    assert house.problems == [failing]


@pytest.mark.parametrize("step_s", [6, -6, 86_400, -86_400])
def test_a_clock_that_is_set_is_told_either_way(step_s: float) -> None:
    house = House()
    house.tick(step_s=step_s)
    house.tick()
    assert house.told == ["clock_step"]


def test_a_disk_that_fills_is_told_once_until_there_was_space_again() -> None:
    house = House()
    for free in (STORAGE_LOW_BYTES, STORAGE_LOW_BYTES - 1, 0, STORAGE_BACK_BYTES, 0):
        house.tick(free=free)
    assert house.told == ["storage_low"]
    house.tick(free=STORAGE_BACK_BYTES + 1)
    house.tick(free=0)
    assert house.told == ["storage_low", "storage_low"]
