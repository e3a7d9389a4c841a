# SPDX-License-Identifier: Apache-2.0
"""What each check of the doctor says, in whole sentences, and where its bounds are."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import yaml

from agent.audit.ageing import Ageing
from agent.camera.base import CameraInfo
from agent.clock import SimulatedClock
from agent.config.schema import Config
from agent.console.opening import make_opening, prepare, write_opening
from agent.detect.change import ChangeTest
from agent.disk.process_lock import ProcessLock
from agent.door.lines import Input, InputSpec, Lines, OutputSpec
from agent.door.osdp import PanelSpec
from agent.errors import DeviceLostError, StorageError
from agent.keys import UnitKey
from agent.unit import doctor
from agent.unit.confirm import tell_ageing
from agent.unit.doctor import CALM, LOW_DISK_BYTES, Finding, examine
from agent.unit.generation import Known
from agent.unit.key_files import KeptFiles
from tests.simulators.config import example, parse_config
from tests.unit.test_match_policy import policy

GPIO = {"kind": "gpio", "chip": "/dev/gpiochip0", "line": 17}
KEY = {"kind": "key", "device": "/dev/input/by-id/usb-x-event-kbd", "key": "KEY_ENTER"}
NOBODY_THERE = (
    "if nobody was there, the light flickers or something moves where people act; the unit then works all day as if"
    " somebody were there"
)


def configured(folder: Path, **sections: Any) -> Config:
    data = example() | sections
    data["gallery"]["path"], data["outbox"]["path"], data["audit"]["path"] = "gallery.db", "outbox.db", "audit.log"
    data["keys"]["folder"] = "."
    return parse_config(yaml.safe_dump(data).encode(), folder / "config.yaml")


def test_an_error_ends_a_check_as_its_last_finding_by_its_name(tmp_path: Path) -> None:
    def broken(error: Exception) -> doctor.Check:
        def check(*_: object) -> doctor.Found:
            yield "advice", "so far"
            raise error

        return check

    checks = {"disk": broken(StorageError("no space left")), "clock": broken(ValueError("x"))}
    config, clock = configured(tmp_path), SimulatedClock()
    first, last = examine("disk", config, clock, checks=checks)
    assert first == Finding("disk", "advice", "so far")
    assert last == Finding("disk", "fault", "no space left")
    first, last = examine("clock", config, clock, checks=checks)
    assert (first.check, last.check, last.state) == ("clock", "clock", "fault")
    assert "ValueError" in last.text


def test_what_is_free_is_told_in_mebibytes_of_the_outboxs_disk(tmp_path: Path) -> None:
    config = configured(tmp_path)
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    ((state, text),) = doctor.check_disk(config, SimulatedClock())
    number, _, rest = text.partition(" ")
    assert float(number) == pytest.approx(free / 2**20, rel=0.2)
    told = f"MiB are free beside {config.outbox.path}"
    if free < LOW_DISK_BYTES:
        assert (state, rest) == ("advice", f"{told}: make room, events wait there while the broker is away")
    else:
        assert (state, rest) == ("ok", told)


def test_the_time_is_told_to_the_second_and_whether_it_is_known_to_be_right(tmp_path: Path) -> None:
    clock, unsynced = SimulatedClock(), SimulatedClock(state="unsynced")
    now = f"{clock.now():%Y-%m-%d %H:%M:%S} UTC"
    config = configured(tmp_path)
    assert list(doctor.check_clock(config, clock)) == [("ok", f"{now}, synchronised")]
    what = "not known to be right: let systemd-timesyncd reach a time server; until then events say 'unsynced'"
    assert list(doctor.check_clock(config, unsynced)) == [("advice", f"{now}, {what}")]


def test_a_state_is_told_from_the_first_start_to_a_doubt(tmp_path: Path) -> None:
    config, clock = configured(tmp_path), SimulatedClock()
    files = KeptFiles(config.outbox.path)
    new = ("ok", "a new unit: nothing is destroyed for its age before a day of running")
    assert list(doctor.check_state(config, clock)) == [("ok", "nothing was kept yet"), new]
    files.generation.write_bytes(msgspec.json.encode(Known(number=3)))
    right = ("ok", "no file was put back to an older state")
    assert list(doctor.check_state(config, clock)) == [right, new]
    files.generation.write_bytes(msgspec.json.encode(Known(number=3, doubt="the gallery was put back")))
    assert list(doctor.check_state(config, clock)) == [("fault", "the gallery was put back"), new]
    files.generation.write_bytes(msgspec.json.encode(Known(number=3)))
    ageing = Ageing(clock, files.time)
    waits = ("ok", "nothing is destroyed for its age before a day of running with the right time")
    assert list(doctor.check_state(config, clock)) == [right, waits]
    for _ in range(26):
        clock.advance(3600)
        ageing.settled()
    ageing.save()
    assert list(doctor.check_state(config, clock)) == [right, ("ok", "the clock agrees with what this unit knows")]
    clock.step_wall(40 * 86_400.0)
    before = files.time.read_bytes()
    assert list(doctor.check_state(config, clock)) == [right, ("advice", tell_ageing(Ageing(clock, files.time)))]
    files.time.write_bytes(before)
    list(doctor.check_state(config, clock))
    assert files.time.read_bytes() == before, "the doctor looks, and writes nothing"


@pytest.fixture
def core_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


CRASH = "a crash would write memory to disk: install deploy/sysctl.conf, or run under the service"


@pytest.mark.parametrize(
    ("limit", "pattern", "told"),
    [
        (0, "core", ("ok", "no core dumps")),
        (0, "|/usr/share/apport %p", ("advice", CRASH)),
        (4096, "core", ("advice", CRASH)),
        (4096, "|/bin/false", ("ok", "no core dumps")),
        (4096, "|/bin/false %p", ("advice", CRASH)),
    ],
)
def test_where_memory_may_go_is_told(
    tmp_path: Path, core_limit: None, limit: int, pattern: str, told: tuple[str, str]
) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (limit, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/core_pattern").write_text(f"{pattern}\n")
    config = configured(tmp_path)
    assert list(doctor.check_memory(config, SimulatedClock(), tmp_path)) == [("ok", "no swap on a disk"), told]
    (tmp_path / "swaps").write_text("Filename Type\n/dev/zram0 x\n/dev/sda2 x\n/zram-less y\n")
    first, _ = doctor.check_memory(config, SimulatedClock(), tmp_path)
    advice = "switch it off; the service does not swap, this command may"
    assert first == ("advice", f"swap on /dev/sda2: {advice}")


def test_folders_are_told_in_order_each_with_what_to_do(tmp_path: Path) -> None:
    data = example()
    data["gallery"]["path"], data["outbox"]["path"], data["audit"]["path"] = "b/gallery.db", "a/outbox.db", "c/x.log"
    data["keys"]["folder"] = "b"
    config = parse_config(yaml.safe_dump(data).encode(), tmp_path / "config.yaml")
    a, b, c = (tmp_path / name for name in "abc")
    a.mkdir(mode=0o700)
    b.mkdir()
    b.chmod(0o701)
    assert list(doctor.check_folders(config, SimulatedClock())) == [
        ("ok", f"{a} is private and writable"),
        ("advice", f"{b} is open to other users: chmod 700 {b}"),
        ("fault", f"{c} does not exist: create it for the service (mode 0700)"),
    ]


def test_what_a_policy_promises_is_told_with_what_was_measured() -> None:
    made = policy()
    promise, *others = doctor.tell_policy(made, 1)
    told = (
        f"policy {made.digest[:19]}…, FPIR at most 0.001 an attempt with up to {made.covered_references} people,"
        f" measured up to {made.measured_references}, then extrapolated"
    )
    assert promise == ("ok", told)
    misses = made.misses(1)
    if misses is None:
        assert others == []
    else:
        by = "measured" if made.threshold(misses.gallery, made.probe.first).state == "measured" else "extrapolated"
        fnir, low, high = (f"{ppm / 1e6:.2%}" for ppm in (misses.fnir_ppm, misses.low_ppm, misses.high_ppm))
        missed = f"of people who are enrolled {fnir} are missed at first look (FNIR, 95 %: {low} to {high})"
        assert others == [("ok", f"{missed}, in a gallery of {misses.gallery} at {by} thresholds")]
    size = made.covered_references + 1
    *_, last = doctor.tell_policy(made, size)
    assert last[0] == "advice"
    assert last[1].startswith(f"{size} people are enrolled, and the policy reaches up to {size - 1}: ")


@pytest.mark.parametrize(
    ("look", "looked", "told"),
    [
        ("changes", round(30 * CALM), ("ok", "the detector had to look at 15 of 30 frames")),
        ("changes", round(30 * CALM) + 1, ("advice", f"the detector had to look at 16 of 30 frames: {NOBODY_THERE}")),
        ("every_frame", 30, ("ok", "the detector had to look at 30 of 30 frames")),
    ],
)
def test_a_scene_that_is_not_at_rest_is_told(tmp_path: Path, look: str, looked: int, told: tuple[str, str]) -> None:
    config = configured(tmp_path, detection={**example()["detection"], "look": look})
    change = cast("ChangeTest", SimpleNamespace(looked=looked, skipped=30 - looked))
    camera = cast("CameraInfo", SimpleNamespace(width=1280, height=720))
    first, second = doctor.tell_looking(config, change, camera, (640, 480))
    assert first == told
    assert second[0] in {"ok", "advice"}
    if second[0] == "ok":
        number = (
            second[1].removeprefix("the smallest accepted face has ").removesuffix(" pixels in the detector's input")
        )
        assert int(number) > 0


class Pressed:
    """The board's lines and keys; each input is pressed after so many looks, or never."""

    def __init__(self, *after: int | None) -> None:
        self.after = list(after)
        self.opened: list[object] = []
        self.looks: list[int] = []
        self.closed = 0

    def open_input(self, spec: InputSpec) -> Input:
        return self._one(spec)

    def open_key(self, device: Path, key: str) -> Input:
        return self._one((device, key))

    def _one(self, what: object) -> Input:
        self.opened.append(what)
        self.looks.append(0)
        number, after = len(self.looks) - 1, self.after[len(self.looks) - 1]

        def pressed() -> bool:
            self.looks[number] += 1
            return after is not None and self.looks[number] > after

        def close() -> None:
            self.closed += 1

        return cast("Input", SimpleNamespace(on_the_spot=True, pressed=pressed, close=close))


def test_each_button_is_waited_for_and_told_by_its_place_in_the_file(tmp_path: Path) -> None:
    activation = {"kind": "button", "name": "door", "inputs": [GPIO, {"kind": "command"}, KEY]}
    config = configured(tmp_path, activation=activation)
    lines, clock = Pressed(3, None), SimulatedClock()
    began_ns = clock.monotonic_ns()
    first, second = "activation.inputs[0]", "activation.inputs[2]"
    silent = "nothing was heard: look at the wiring, bias and active_low, or the key's name"
    assert list(doctor.check_inputs(config, clock, cast("Lines", lines))) == [
        ("advice", f"{first}: press it now, within 15 s"),
        ("ok", f"{first}: pressed, and heard"),
        ("advice", f"{second}: press it now, within 15 s"),
        ("fault", f"{second}: {silent}"),
    ]
    assert lines.opened == [
        InputSpec(Path("/dev/gpiochip0"), 17, "pull_up", True, 20),
        (Path(KEY["device"]), "KEY_ENTER"),
    ]
    assert lines.closed == 2
    assert lines.looks[0] == 4
    assert (clock.monotonic_ns() - began_ns) / 1e9 == pytest.approx(15 + 3 * 0.05, abs=0.06)
    nobody = configured(tmp_path)
    assert list(doctor.check_inputs(nobody, clock)) == [
        ("ok", "no button; who enrols turns their head as the unit asks")
    ]


def test_a_button_that_goes_away_is_let_go_of(tmp_path: Path) -> None:
    class Gone(Pressed):
        def _one(self, what: object) -> Input:
            made = super()._one(what)

            def pressed() -> bool:
                raise DeviceLostError("it was pulled out")

            made.pressed = pressed  # type: ignore[method-assign]
            return made

    lines = Gone(None)
    config = configured(tmp_path, activation={"kind": "button", "name": "door", "inputs": [GPIO]})
    with pytest.raises(DeviceLostError):
        list(doctor.check_inputs(config, SimulatedClock(), cast("Lines", lines)))
    assert lines.closed == 1


def test_a_unit_without_outputs_says_so_and_writes_its_display(tmp_path: Path) -> None:
    config = configured(tmp_path, feedback={"text": str(tmp_path / "display")})
    assert list(doctor.check_outputs(config, SimulatedClock())) == [("ok", "no output line")]
    assert (tmp_path / "display").read_text().strip() == "ready"
    (tmp_path / "display").unlink()
    lock = ProcessLock(config.gallery.path)
    try:
        list(doctor.check_outputs(config, SimulatedClock()))
    finally:
        lock.release()
    assert not (tmp_path / "display").exists(), "a unit that runs tells it by itself"
    (tmp_path / "display").mkdir()
    first, fault = doctor.check_outputs(config, SimulatedClock())
    assert first == ("ok", "no output line")
    assert fault[0] == "fault"
    assert fault[1].startswith("feedback.text: ")


def test_a_line_that_the_unit_cannot_take_is_told_with_who_may_hold_it(tmp_path: Path) -> None:
    outputs = [{"name": "strike", "kind": "gpio", "chip": str(tmp_path / "gpiochip9"), "line": 4, "pulse_ms": 500}]
    rule = {"name": "staff", "then": ["strike"], "liveness": "unchecked: a photograph opens it"}
    config = configured(tmp_path, outputs=outputs, rules=[rule])
    ((state, text),) = doctor.check_outputs(config, SimulatedClock())
    assert (state, text[:8]) == ("fault", "strike: ")
    lock = ProcessLock(config.gallery.path)
    try:
        ((_, held),) = doctor.check_outputs(config, SimulatedClock())
    finally:
        lock.release()
    assert held == f"{text} (the unit is running and holds its lines: systemctl stop postern)"


def test_each_line_and_controller_is_tried_and_told_with_what_to_look_at(tmp_path: Path) -> None:
    key = tmp_path / "panel.key"
    key.touch(mode=0o600)
    key.write_text("00112233445566778899aabbccddeeff")
    strike = {"name": "strike", "kind": "gpio", "chip": "/dev/gpiochip0", "line": 4, "pulse_ms": 500}
    panel = {"name": "panel", "kind": "osdp", "device": "/dev/ttyUSB7", "address": 9, "key_file": str(key)}
    config = configured(
        tmp_path,
        outputs=[strike, panel],
        rules=[{"name": "staff", "then": ["strike", "panel"], "liveness": "unchecked: a photograph opens it"}],
        feedback={"look": {"chip": "/dev/gpiochip0", "line": 5}},
    )
    asked: list[object] = []

    class Board:
        def open_output(self, spec: OutputSpec) -> object:
            asked.append(spec.line)
            return SimpleNamespace(set=lambda _: None, close=lambda: asked.append("closed"))

    class Panels:
        def __init__(self, after: int | None) -> None:
            self.after, self.looks, self.closed = after, 0, 0

        def open_panel(self, spec: PanelSpec, *_: object) -> object:
            def secure() -> bool:
                self.looks += 1
                return self.after is not None and self.looks > self.after

            def close() -> None:
                self.closed += 1

            return SimpleNamespace(is_secure=secure, close=close)

    clock, place = SimulatedClock(), "the controller at /dev/ttyUSB7 (reader 9)"
    lost = (
        f"panel: {place} does not talk to this unit: check the wires, address and baud rate, and that both have the"
        " same key"
    )
    for after, told, seconds in (
        (2, ("ok", f"panel: {place} talks to this unit, and both have the same key"), 2 * 0.05),
        (None, ("fault", lost), 8.0),
    ):
        panels, began_ns = Panels(after), clock.monotonic_ns()
        found = list(doctor.check_outputs(config, clock, cast("Lines", Board()), cast("Any", panels)))
        assert found == [("ok", "2 output lines, all off"), told]
        assert panels.closed == 1
        assert (clock.monotonic_ns() - began_ns) / 1e9 == pytest.approx(seconds, abs=0.06)
    assert asked == [4, "closed", 5, "closed"] * 2


def test_the_console_is_told_closed_open_and_at_an_address_of_another_machine(tmp_path: Path) -> None:
    clock = SimulatedClock()
    assert list(doctor.check_console(configured(tmp_path), clock)) == [("ok", "none")]
    folder = tmp_path / "console"
    own = configured(tmp_path, console={"address": "127.0.0.1", "port": 18443, "folder": str(folder)})
    assert list(doctor.check_console(own, clock)) == [("ok", "https://127.0.0.1:18443/, closed")]
    prepare(folder)
    opening = make_opening(clock, code="sha256:" + "0" * 64, minutes=2, scope="aim", by="command")
    write_opening(folder, opening)
    clock.advance(30)
    assert list(doctor.check_console(own, clock)) == [("ok", "https://127.0.0.1:18443/, open for 90 s")]
    clock.advance(90)
    assert list(doctor.check_console(own, clock)) == [("ok", "https://127.0.0.1:18443/, closed")]
    foreign = configured(tmp_path, console={"address": "192.0.2.7", "folder": str(folder)})
    why = "192.0.2.7 is no address of this machine: correct console.address"
    assert list(doctor.check_console(foreign, clock)) == [("fault", why)]


def test_a_unit_without_tokens_says_so(tmp_path: Path) -> None:
    assert list(doctor.check_tokens(configured(tmp_path), SimulatedClock())) == [("ok", "no tokens are taken here")]


def test_a_gallery_is_not_looked_at_without_the_units_key(tmp_path: Path) -> None:
    config = configured(tmp_path)
    (finding,) = examine("gallery", config, SimulatedClock())
    assert (finding.check, finding.state) == ("gallery", "fault")
    assert "unit.key" in finding.text
    UnitKey.generate().save(tmp_path / "unit.key")
    assert list(examine("gallery", config, SimulatedClock())) == [Finding("gallery", "ok", "0 people enrolled")]
