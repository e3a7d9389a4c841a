# SPDX-License-Identifier: Apache-2.0
"""The assembled unit, by what it says of itself: health, description, log; and by which threads keep it from ending."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import agent
from agent.audit.chain import read_entries
from agent.camera.supervise import CameraNotice
from agent.errors import RetryError
from agent.keys import UnitKey
from agent.match.presence import PresenceChange
from agent.protocol.health import verify_health
from agent.unit.start_log import digest_of
from agent.unit.stores import source_of
from agent.uplink.commands import MAX_SKEW_S
from tests.simulators.dark_unit import conditions
from tests.simulators.full_disk import no_file_grows_beyond
from tests.unit.test_wiring import Unit, about, kinds


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def test_health_says_what_the_unit_is_and_does_at_this_moment(unit: Unit) -> None:
    key = UnitKey.load(unit.config.keys.folder / "unit.key")
    with unit.running() as service:
        build = service._uplink.health
        assert build is not None
        told = verify_health(build(), key.public, source=source_of(unit.config))
        assert (told.recognition, told.temperature_c, told.disk_free_bytes) == ("running", 40, 1 << 33)
        assert told.boot == service._stores.outbox.boot
        assert told.asks == ()
        assert told.epochs == service._epoch_keys.left(unit.config.events.audience, unit.clock.now())
        assert told.epochs
        assert told.certificate_days == service._endings.days_left()
        assert told.audit == str(service._stores.audit.head())
        assert told.queue_depth == service._stores.outbox.depth()
        assert (told.head.seq, told.head.digest) == service._stores.outbox.head()
        assert told.configuration is None
        service._paused.set()
        assert verify_health(build(), key.public, source=source_of(unit.config)).recognition == "paused"
        service._paused.clear()
        service._frames = 60
        unit.clock.advance(60)
        assert 0 < verify_health(build(), key.public, source=source_of(unit.config)).fps_milli <= 60_000


def test_the_description_says_who_is_enrolled_which_camera_and_which_verbs(unit: Unit) -> None:
    with unit.running() as service:
        told = json.loads(service._uplink.info())
        with service._camera:
            opened = json.loads(service._uplink.info())
    assert told["enrolled"] == 2
    assert told["camera"] is None, "before it is open"
    assert opened["camera"] == {"kind": "scene", "width": 320, "height": 240}
    assert told["policy"] == service._policy.digest
    assert {"health", "gallery/status", "subject/revoke", "enrol/begin", "verify"} <= set(told["capabilities"])
    assert told["update"] is None


def test_a_start_is_one_entry_with_what_may_change_and_a_stop_is_one(unit: Unit) -> None:
    key = UnitKey.load(unit.config.keys.folder / "unit.key")
    with unit.running() as service:
        config, policy = service._config, service._policy
        service.run(lambda: True)
    entries = {entry.kind: entry for entry in read_entries(unit.config.audit.path)}
    facts = {
        "version": agent.__version__,
        "config": digest_of(config),
        "policy": policy.digest,
        "model": policy.model,
        "kid": key.kid,
    }
    assert {name: entries["started"].facts[name] for name in facts} == facts
    assert [one for one in kinds(unit.config) if one in ("started", "stopped")] == ["started", "stopped"]
    with unit.running() as service:
        assert [one for one in conditions(service) if one in ("started", "stopping")] == ["started", "stopping"]


def test_a_start_says_how_many_people_would_wait_at_the_door_in_vain(
    unit: Unit, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(unit.config.gallery.path)) as database, database:
        database.execute("UPDATE subjects SET template = zeroblob(length(template)) WHERE id = 1")
        database.execute("UPDATE subjects SET model = 'sha256:' || ? WHERE id = 2", ("f" * 64,))
    with unit.running() as service:
        service.run(lambda: True)
        assert service._references().subjects == ()
    told = [(one.levelname, one.getMessage()) for one in caplog.records]
    again = "match nobody: restore them, or enrol these people again"
    assert ("ERROR", f"2 of 2 references are damaged and {again}") in told, "a model's name is sealed with a reference"
    assert (
        "WARNING",
        "1 references are of another model than this unit's and match nobody: enrol these people again",
    ) in told


def test_what_the_camera_says_is_a_warning_and_an_event_and_the_description_is_new(
    unit: Unit, caplog: pytest.LogCaptureFixture
) -> None:
    with unit.running() as service:
        service._mailbox.take_info_changed()
        caplog.clear()
        service._on_camera(CameraNotice("camera_lost", "no frame for 5 s: look at the cable"))
        assert service._mailbox.take_info_changed()
        service._on_camera(CameraNotice("camera_back", "it gives frames again"))
        assert [one for one in conditions(service) if one.startswith("camera")] == ["camera_lost", "camera_back"]
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "camera_lost: no frame for 5 s: look at the cable"),
        ("WARNING", "camera_back: it gives frames again"),
    ]


def test_an_erasure_is_told_without_a_name(unit: Unit, caplog: pytest.LogCaptureFixture) -> None:
    with unit.running() as service, caplog.at_level(logging.INFO, "postern"):
        caplog.clear()
        service._forgetting.erase(unit.people[0])
        assert not service._erased.empty()
        service._take_erasures()
        assert service._erased.empty()
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "a reference was erased (withdrawn)")
    ]


def test_what_cannot_be_written_down_is_told_and_ends_nothing(unit: Unit, caplog: pytest.LogCaptureFixture) -> None:
    with unit.running() as service:
        caplog.clear()
        with no_file_grows_beyond(0):
            service._log("stopped")
    assert [one.levelname for one in caplog.records] == ["ERROR"]
    assert str(unit.config.audit.path) in caplog.records[0].getMessage()


def test_each_thread_that_is_left_is_named_before_another_run_begins(unit: Unit) -> None:
    with unit.running() as service:
        service._uplink.start(60)
        service._housekeeping.start()
        with pytest.raises(RetryError) as left:
            service.check_ended()
        service._housekeeping.stop()
        service._uplink.stop(0.0)
        service._uplink.thread.join(10)
        service.check_ended()
    what = "did not end in time: the unit ends, and has to be started anew"
    assert str(left.value) == f"postern-uplink and postern-housekeeping {what}"


def test_a_clock_that_went_back_by_more_than_clocks_may_differ_asks_for_a_nonce(unit: Unit) -> None:
    with unit.running() as service:
        commands = service._uplink.on_request.__self__  # type: ignore[attr-defined]
        service._stores.ageing.confirm(unit.clock.now())
        assert not commands.doubted()
        unit.clock.step_wall(-MAX_SKEW_S)
        assert not commands.doubted()
        unit.clock.step_wall(-0.001)
        assert commands.doubted()
        unit.clock.step_wall(1)
        assert not commands.doubted()


def test_whose_presence_ends_is_an_event_of_a_unit_that_tells_it_and_of_no_other(unit: Unit) -> None:
    gone = PresenceChange(unit.people[0], "left", "door", 0)
    for presence in (False, True):
        with unit.running(events={"presence": presence}) as service:
            service._record(gone)
            assert len(about(service, "presence")) == presence
