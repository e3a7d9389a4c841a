# SPDX-License-Identifier: Apache-2.0
"""What the configuration says reaches the part that it is about, in the assembled unit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.clock import SimulatedClock
from agent.config.load import load_config
from agent.config.schema import Config
from agent.detect.detector import load_detector
from agent.detect.gate import ButtonGate, ZoneGate
from agent.detect.track import Track
from agent.door.liveness import CheckedLiveness
from agent.match.records import Match
from agent.parse.strict_json import decode
from agent.protocol.subject import SubjectId
from agent.unit.at_the_door import make_gate
from agent.unit.forget import owner_of
from agent.unit.models import load_models
from tests.simulators.dark_unit import assembled
from tests.simulators.heads import face
from tests.simulators.quiet_unit import Premises
from tests.simulators.signing_unit import START, match_draft
from tests.simulators.unit_life import opened, write_unit

SECOND = 1_000_000_000  # ns
SIZE = {"frame_width": 1280, "frame_height": 720}
WHOLE = [[0, 0], [1, 0], [1, 1], [0, 1]]
ANNA, BO = SubjectId(b"a" * 16), SubjectId(b"b" * 16)
UNCHECKED = "unchecked: a photograph opens it"

Configured = Callable[..., Config]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """A unit that could run, with these sections changed."""
    premises = Premises(tmp_path)

    def change(**sections: Any) -> Config:
        data = yaml.safe_load(premises.config.read_text())
        for name, value in sections.items():
            merged = isinstance(value, dict) and name != "activation" and isinstance(data.get(name), dict)
            data[name] = data[name] | value if merged else value
        premises.config.write_text(yaml.safe_dump(data))
        return load_config(premises.config)

    return change


def test_the_threads_reach_every_model(configured: Configured) -> None:
    config = configured(models={"threads": 3})
    loaded: list[object] = []

    def begun(load: Callable[[], object]) -> int:
        """How many threads of the system it starts."""
        before = len(list(Path("/proc/self/task").iterdir()))
        loaded.append(load())
        return len(list(Path("/proc/self/task").iterdir())) - before

    detector = begun(lambda: load_detector(config.models.manifest, config.models.detector, config.models.threads))
    assert begun(lambda: load_models(config)) > detector > 0


def zone(tmp_path: Path, **activation: Any) -> ZoneGate | ButtonGate:
    """The gate of a unit with this activation."""
    write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    data = yaml.safe_load((tmp_path / "config.yaml").read_text())
    kind = {"kind": "zone", "polygon": WHOLE} if activation.get("kind") != "button" else {}
    data["activation"] = {"name": "entrance", **kind, **activation}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    gate = make_gate(load_config(tmp_path / "config.yaml"))
    assert isinstance(gate, ZoneGate | ButtonGate)
    return gate


def admits(gate: ZoneGate | ButtonGate, *, width: float = 200, yaw: float = 0, after_ns: int = 5 * SECOND) -> bool:
    """Whether a face is admitted that has stood in the middle for so long."""
    if isinstance(gate, ButtonGate):
        gate.open_window(0)
    shown = face(640, 360, width, yaw=yaw)
    admitted: list[Track] = []
    for now_ns in range(0, after_ns + 1, SECOND // 20):
        admitted = gate.admit([Track(1, shown, 0, now_ns)], **SIZE, timestamp_ns=now_ns)
    return bool(admitted)


@pytest.mark.parametrize("kind", ["zone", "button"])
def test_the_least_size_and_the_greatest_turn_of_a_face_reach_the_gate(tmp_path: Path, kind: str) -> None:
    gate = zone(tmp_path, kind=kind, min_face_px=120, max_turn_degrees=12)
    assert admits(gate, width=121)
    assert not admits(gate, width=119)
    assert admits(gate, yaw=8)
    assert not admits(gate, yaw=20)


def test_the_dwell_time_reaches_the_gate(tmp_path: Path) -> None:
    gate = zone(tmp_path, dwell_ms=2000)
    assert not admits(gate, after_ns=19 * SECOND // 10)
    assert admits(zone(tmp_path, dwell_ms=2000), after_ns=21 * SECOND // 10)


def test_the_window_reaches_the_gate(tmp_path: Path) -> None:
    assert admits(zone(tmp_path, kind="button", window_s=4), after_ns=4 * SECOND - SECOND // 20)
    assert not admits(zone(tmp_path, kind="button", window_s=4), after_ns=4 * SECOND)


def test_the_polygon_reaches_the_gate(tmp_path: Path) -> None:
    assert not admits(zone(tmp_path, polygon=[[0, 0], [0.4, 0], [0.4, 1], [0, 1]]))


def test_the_step_of_times_reaches_events_and_losses(configured: Configured) -> None:
    config, clock = configured(events={"time_resolution_s": 3600}), SimulatedClock(START)
    with assembled(config, clock) as service:
        service._recorder.unit("camera_lost")
        outbox = service._stores.outbox
        outbox.append(match_draft(clock), owner=owner_of(ANNA))
        outbox.erase(owner_of(ANNA))
        events = [decode(row.payload, dict, 4096) for row in outbox.pending(100)]
    told = {event["data"]["condition"]: event["time"] for event in events if "condition" in event["data"]}
    assert told["camera_lost"] == told["loss"] == "2026-11-22T09:00:00Z"


def test_how_long_somebody_counts_as_present_reaches_presence(configured: Configured) -> None:
    with assembled(configured(events={"presence_hold_s": 7}), SimulatedClock(START)) as service:
        seen = Match(ANNA, "entrance", 0)
        assert [change.state for change in service._presence.update([seen], 0)] == ["arrived"]
        assert not service._presence.update([], 7 * SECOND - 1)
        assert [change.state for change in service._presence.update([], 7 * SECOND)] == ["left"]


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_arrivals_are_told_reaches_the_queue(configured: Configured, *, wanted: bool) -> None:
    with assembled(configured(events={"presence": wanted}), SimulatedClock(START)) as service:
        for change in service._presence.update([Match(ANNA, "entrance", 0)], 0):
            service._record(change)
        kinds = {row.kind for row in service._stores.outbox.pending(100)}
    assert ("presence" in kinds) == wanted


def test_what_the_broker_is_told_reaches_the_uplink(configured: Configured) -> None:
    config = configured(outbox={"live_window_s": 33}, broker={"health_interval_s": 77, "protocol": "3.1.1", "port": 9})
    with assembled(config, SimulatedClock(START)) as service:
        settings = service._uplink.settings
    assert (settings.live_window_s, settings.health_interval_s) == (33, 77)
    assert (settings.broker.protocol, settings.broker.port, settings.broker.host) == ("3.1.1", 9, config.broker.host)


@pytest.mark.parametrize("home_assistant", [True, False])
def test_leftovers_of_home_assistant_are_unwanted_where_it_is_not_wanted(
    configured: Configured, *, home_assistant: bool
) -> None:
    with assembled(configured(broker={"home_assistant": home_assistant}), SimulatedClock(START)) as service:
        assert (service._uplink.discovery is not None) == home_assistant
        assert bool(service._uplink.unwanted) != home_assistant


def test_the_days_of_retention_reach_the_gallery(tmp_path: Path) -> None:
    write_unit(tmp_path / "config.yaml", tmp_path / "unit")
    data = yaml.safe_load((tmp_path / "config.yaml").read_text())
    data["gallery"]["retention_days"] = 3
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    with opened(load_config(tmp_path / "config.yaml"), SimulatedClock()) as stores:
        assert stores.gallery._retention.unused_days == 3


@pytest.mark.parametrize(
    ("rule", "first", "second", "elsewhere"),
    [
        ({}, ("gate",), (), ("gate",)),
        ({"zone": "entrance"}, ("gate",), (), ()),
        ({"cooldown_s": 5}, ("gate",), ("gate",), ("gate",)),
        ({"liveness": "passed"}, (), (), ()),
        ({"when": "verified"}, (), (), ()),
    ],
)
def test_each_word_of_a_rule_reaches_the_door(
    configured: Configured, rule: dict[str, Any], first: tuple[str], second: tuple[str], elsewhere: tuple[str]
) -> None:
    config = configured(
        liveness="require",
        activation={"kind": "zone", "name": "entrance", "polygon": WHOLE},
        outputs=[{"name": "gate", "kind": "event"}],
        rules=[{"name": "staff", "then": ["gate"], "liveness": UNCHECKED} | rule],
    )
    clock = SimulatedClock(START)
    with assembled(config, clock) as service:
        assert service._door.matched(Match(ANNA, "entrance", 0)) == first
        clock.advance(6)
        assert service._door.matched(Match(ANNA, "entrance", 0)) == second
        assert service._door.matched(Match(BO, "yard", 0)) == elsewhere
        live = service._door.matched(Match(BO, "entrance", 0, liveness="passed"))
    assert live == ((), ("gate",))[rule.get("liveness") == "passed" or rule == {"zone": "entrance"}]


def test_the_parts_of_liveness_reach_the_check(configured: Configured) -> None:
    def parts(*named: str) -> int:
        config = configured(liveness="require", liveness_parts=list(named))
        with assembled(config, SimulatedClock(START)) as service:
            check = service._liveness
            assert isinstance(check, CheckedLiveness)
            return len(check._parts)

    assert [parts("challenge"), parts("challenge", "passive")] == [0, 1]


def test_a_lamp_that_breaks_is_told_by_the_running_unit(
    configured: Configured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = tmp_path / "display" / "text"
    shown.parent.mkdir()
    config = configured(feedback={"text": str(shown)})
    with assembled(config, SimulatedClock(START)) as service:
        service._door.show(None)
        shutil.rmtree(shown.parent)
        service._door.announce("https://127.0.0.1:8443/")
        service._door.show(None)
    assert [record.levelname for record in caplog.records if str(shown.parent) in record.getMessage()] == ["ERROR"]
