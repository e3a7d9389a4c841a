# SPDX-License-Identifier: Apache-2.0
"""The running unit's side of its console: the socket, the zone that was drawn, the display, the checks' child."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.camera.base import Frame, RgbPicture
from agent.camera.scene.render import SceneRenderer
from agent.camera.scene.script import SceneScript
from agent.clock import Clock, SimulatedClock, SystemClock
from agent.config.console import Console, refuse_address
from agent.config.drawn import as_drawn, draw, zone_file
from agent.config.schema import Config, ZoneActivation
from agent.console.link import MAX_ASK_BYTES, ask, can_listen, socket_of
from agent.console.opening import Opening, close, digest_of_code, make_opening, read_opening, write_opening
from agent.detect.detector import load_detector
from agent.detect.face import Face
from agent.detect.track import Track
from agent.disk.process_lock import ProcessLock
from agent.door.acts import Inputs
from agent.errors import ConfigError, PosternError, RefusedError, RetryError
from agent.keys import save_private_key
from agent.unit.console import ConsoleDone, ConsoleSide
from agent.unit.console_open import open_console
from agent.unit.desk import Desk
from agent.unit.examiner import HELD, IN_USE, Examiner
from agent.unit.key_files import UnitFiles
from agent.unit.watching import RESTS, Watching
from tests.simulators.broker import wait_until
from tests.simulators.config import parse_config
from tests.simulators.dark_unit import dark_world
from tests.simulators.ports import free_port
from tools.lib.demo.site import NOTICE, PURPOSE

MANIFEST = Path(__file__).parents[2] / "models" / "manifest.yaml"


def config(folder: Path, polygon: str = "[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]", more: str = "") -> Config:
    text = f"""
profile: production
purpose: {PURPOSE}
unit: {{site: hq, id: door-1, name: Door}}
notice: {{version: "1", operator: "{NOTICE["operator"]}", alternative: "{NOTICE["alternative"]}"}}
camera: {{source: picamera2}}
activation: {{kind: zone, name: door, polygon: {polygon}}}
broker: {{host: broker.example.org}}
outbox: {{path: outbox.db}}
{more}
"""
    return parse_config(text.encode(), folder / "config.yaml")


class Unit:
    """A desk with one act, and what it noticed."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.noticed = SystemClock(), list[Opening | None]()
        self.settings = Console(address="127.0.0.1", folder=folder / "run")
        self.settings.folder.mkdir()
        self.problems: list[PosternError] = []
        acts: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
            "say": lambda arguments: {"said": dict(arguments)},
            "refuse": self._refuse,
            "break": lambda _: {"never": 1 // 0},
        }
        self.desk = Desk(
            self.settings,
            acts,
            self.clock,
            noticed=self.noticed.append,
            button=Inputs((), clock=self.clock, on_problem=self.problems.append),
            pressed=lambda: None,
            on_problem=self.problems.append,
        )

    def _refuse(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RefusedError("not so: do it another way")

    def open(self) -> None:
        opening = make_opening(self.clock, code=digest_of_code("x"), minutes=1, scope="aim", by="unit")
        write_opening(self.settings.folder, opening)
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(ask(self.settings.folder, "say", {}))
        except RetryError:
            return False

    def raw(self, content: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(5)
            link.connect(str(socket_of(self.settings.folder)))
            link.sendall(content)
            return link.recv(65536)


@pytest.fixture
def unit(tmp_path: Path) -> Any:
    made = Unit(tmp_path)
    made.desk.start()
    yield made
    made.desk.stop()


def test_nothing_answers_before_it_is_opened_and_after_it_is_closed(unit: Unit) -> None:
    with pytest.raises(RetryError):
        ask(unit.settings.folder, "say", {})
    unit.open()
    assert ask(unit.settings.folder, "say", {"what": "x"}) == {"said": {"what": "x"}}
    assert socket_of(unit.settings.folder).stat().st_mode & 0o777 == 0o600
    close(unit.settings.folder)
    wait_until(lambda: len(unit.noticed) == 2)
    assert [one is None for one in unit.noticed] == [False, True]
    wait_until(lambda: not socket_of(unit.settings.folder).exists())


def test_every_question_gets_one_sentence_and_none_ends_the_desk(unit: Unit) -> None:
    unit.open()
    with pytest.raises(RefusedError, match="not so"):
        ask(unit.settings.folder, "refuse", {})
    with pytest.raises(RefusedError, match="a fault of this program"):
        ask(unit.settings.folder, "break", {})
    with pytest.raises(RefusedError, match="no such act"):
        ask(unit.settings.folder, "other", {})
    for content in (b"\n", b"\xff\n", b'{"do":1}\n', b'{"do":"say","x":1.5}\n', b"[" * 9000 + b"\n", b"{}\n"):
        assert b'"error"' in unit.raw(content)
    assert b'"error"' in unit.raw(b"x" * (MAX_ASK_BYTES + 1))
    with pytest.raises(RefusedError, match="too long"):
        ask(unit.settings.folder, "say", {"what": "x" * MAX_ASK_BYTES})
    assert ask(unit.settings.folder, "say", {"do": "break"}) == {"said": {}}, "what is asked is the console's to say"
    assert unit.desk.thread.is_alive()
    assert unit.problems == []


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting_for_long(unit: Unit) -> None:
    unit.open()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(socket_of(unit.settings.folder)))
        assert ask(unit.settings.folder, "say", {}) == {"said": {}}


def test_a_zone_that_was_drawn_counts_until_the_file_says_another(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert as_drawn(made) == made
    draw(made, ((200, 200), (800, 200), (800, 800)))
    drawn = as_drawn(made)
    assert isinstance(drawn.activation, ZoneActivation)
    assert drawn.activation.polygon == ((0.2, 0.2), (0.8, 0.2), (0.8, 0.8))
    assert as_drawn(drawn) == drawn
    draw(drawn, ((300, 300), (800, 300), (800, 800)))
    again = as_drawn(made)
    assert isinstance(again.activation, ZoneActivation)
    assert again.activation.polygon[0] == (0.3, 0.3), "drawn twice, it still stands for the file's"
    other = config(tmp_path, "[[0.1, 0.1], [0.5, 0.1], [0.9, 0.9]]")
    assert as_drawn(other) == other, "who changes the file has the last word"


@pytest.mark.parametrize(
    "corners",
    [
        (),
        ((1, 1), (2, 2)),
        ((200, 200), (800, 800), (800, 200), (200, 800)),
        ((0, 0), (1001, 0), (0, 1000)),
        ((0, 0), (-1, 0), (0, 1000)),
        ((0, 0), (10, 0), (0, 10)),
        tuple((n * 50, n * n) for n in range(17)),
    ],
)
def test_a_zone_that_the_file_could_not_hold_is_not_kept(tmp_path: Path, corners: Any) -> None:
    made = config(tmp_path)
    with pytest.raises(RefusedError) as refused:
        draw(made, corners)
    assert "\n" not in str(refused.value)
    assert not zone_file(made).exists()


def test_whoever_aims_by_the_console_draws_no_zone_outside_of_what_the_file_allows(tmp_path: Path) -> None:
    """A button opens it for everybody who can reach that; the street is root's to leave out."""
    within = "[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]"
    triangle = "[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]"
    bound = config(tmp_path, f"{triangle}, within: {within}")
    draw(bound, ((100, 100), (900, 100), (900, 900), (100, 900)))
    assert as_drawn(bound) != bound, "on its edges"
    with pytest.raises(RefusedError, match=r"leaves activation\.within"):
        draw(bound, ((0, 100), (900, 100), (900, 900)))
    draw(config(tmp_path, triangle), ((0, 0), (1000, 0), (1000, 1000)))
    assert as_drawn(bound) == bound, "drawn before the file had bounds"


@pytest.mark.parametrize("content", [b"", b"{}", b'{"v":1,"instead_of":[],"corners":[]}', b"\xff" * 5000])
def test_a_damaged_or_foreign_zone_is_as_none(tmp_path: Path, content: bytes) -> None:
    made = config(tmp_path)
    zone_file(made).write_bytes(content)
    zone_file(made).chmod(0o600)
    assert as_drawn(made) == made
    draw(made, ((200, 200), (800, 200), (800, 800)))
    zone_file(made).chmod(0o644)
    assert as_drawn(made) == made, "whoever can write it could be another"


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "8.8.8.8", "224.0.0.1", "door-1.local", "192.168.1.300", ""])
def test_the_console_listens_at_no_address_of_the_world(tmp_path: Path, address: str) -> None:
    assert refuse_address(address) is not None
    with pytest.raises(ConfigError, match=r"console\.address"):
        config(tmp_path, more=f'console: {{address: "{address}"}}')


def test_the_console_listens_in_the_local_network() -> None:
    for address in ("192.168.1.30", "10.0.0.1", "127.0.0.1", "fd00::1"):
        assert refuse_address(address) is None
    assert can_listen("127.0.0.1", free_port())
    assert not can_listen("192.0.2.1", 8443)


def test_a_button_without_a_display_and_a_unit_without_a_console_open_nothing(tmp_path: Path) -> None:
    button = "{kind: gpio, chip: /dev/gpiochip0, line: 4}"
    with pytest.raises(ConfigError, match=r"console\.button: shows its code on a display"):
        config(tmp_path, more=f"console: {{address: 192.168.1.30, button: {button}}}")
    with pytest.raises(RefusedError, match="has no console"):
        open_console(config(tmp_path), SystemClock(), code=digest_of_code("x"), scope="aim", by="unit")


def test_checks_are_done_beside_threads_by_a_child_that_was_there_before(tmp_path: Path) -> None:
    made = config(tmp_path)
    with Examiner(made, SystemClock()) as examiner:
        found: list[Any] = []
        asking = threading.Thread(target=lambda: found.append((examiner.checks(), examiner.examine("memory"))))
        asking.start()
        asking.join(30)
    (names, findings) = found[0]
    assert {"disk", "camera", "console"} <= set(names)
    assert findings
    assert {"check", "state", "text"} == set(findings[0])


def test_what_the_running_unit_holds_is_told_and_no_check_is_missed_because_it_was_just_starting(
    tmp_path: Path,
) -> None:
    """The list was once of a moment: asked while a unit read its zone, the first check it then held ended them all."""
    made = config(tmp_path, more="gallery: {path: gallery.db}")
    with Examiner(made, SystemClock()) as examiner:
        names = examiner.checks()
        held = ProcessLock(made.gallery.path)
        try:
            assert examiner.checks() == names
            for name in HELD:
                assert examiner.examine(name) == [{"check": name, "state": "ok", "text": IN_USE}]
        finally:
            held.release()


def look_at(watching: Watching, frame: Frame, *tracks: Track, capturing: bool = False) -> dict[str, Any]:
    """What a console is told of ``frame``."""
    found: list[dict[str, Any] | None] = []
    asking = threading.Thread(target=lambda: found.append(watching.take(30)))
    asking.start()
    wait_until(lambda: watching._wanted)
    with frame:
        watching.offer(frame, tracks, capturing=capturing)
    asking.join()
    assert found[0] is not None
    return found[0]


@pytest.mark.parametrize(
    ("gain", "blur", "light", "advice"),
    [(1.0, 0, range(20, 90), ""), (0.08, 0, range(1, 12), "too dark"), (1.0, 8, range(20, 90), "")],
)
def test_of_a_face_its_place_size_turn_light_and_sharpness_are_told(
    tmp_path: Path, gain: float, blur: float, light: range, advice: str
) -> None:
    clock, detector = SimulatedClock(), load_detector(MANIFEST, "detector-320x240")
    watching = Watching(config(tmp_path, "[[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]]"), detector, clock)
    path, pose = [{"at": 0, "x": 320, "y": 150, "face": 120}], [{"at": 0, "yaw": 0}]
    person = {"who": "person-01", "path": path, "pose": pose, "blur": [{"at": 0, "radius": blur}]}
    script = {"size": (640, 360), "duration": 1, "people": [person], "light": [{"at": 0, "gain": gain}], "noise": 0}
    picture = RgbPicture(SceneRenderer(msgspec.convert(script, SceneScript)).frame(0))
    small = picture.shrunk((0, 0, 640, 360), detector.input_size)
    eyes, nose, mouth = [(290, 130), (350, 130)], (320, 155), [(298, 180), (342, 180)]
    points = np.array([*eyes, nose, *mouth], np.float32)
    seen = Face((260, 90, 380, 210), points, 0.9)
    told = look_at(watching, Frame(0, clock.monotonic_ns(), small, picture), Track(1, seen, 0, 0))
    (face,) = told["faces"]
    assert face["box"] == [[406, 250], [594, 583]], "in thousandths of the picture"
    assert face["points"][2] == [500, 431]
    assert (face["px"], face["turn"]) == (120, 14), "pixels, and degrees"
    assert face["light"] in light
    assert face["light_advice"] == advice
    assert face["sharp"] == (blur == 0)
    outside = Face((-90, -90, -10, -10), points - 400, 0.9)
    told = look_at(watching, Frame(1, clock.monotonic_ns(), small, picture), Track(2, outside, 0, 0))
    assert [(one["light"], one["sharp"], one["accepted"]) for one in told["faces"]] == [(0, True, False)]


@pytest.mark.parametrize(("look_s", "rests"), [(0.05, False), (0.6, True)])
def test_on_a_slow_machine_the_picture_rests_while_captures_are_taken(
    tmp_path: Path, look_s: float, *, rests: bool
) -> None:
    """Whoever was enrolled in view of a console was once lost between two frames, again and again."""
    clock = SimulatedClock()
    watching = Watching(config(tmp_path), load_detector(MANIFEST, "detector-320x240"), clock)
    pixels = np.zeros((240, 320, 3), np.uint8)

    def small() -> np.ndarray:
        clock.advance(look_s)
        return pixels

    def look(*, capturing: bool) -> dict[str, Any]:
        frame = Frame(0, clock.monotonic_ns(), small, RgbPicture(pixels))
        return look_at(watching, frame, capturing=capturing)

    assert "rgb" in look(capturing=False)
    assert look(capturing=True).get("waiting") == (RESTS if rests else None)
    assert "rgb" in look(capturing=False), "and comes back"


class KeptOnce:
    """Of a running unit's enrolment what the console asks: whoever was kept is in no session any more."""

    capturing = False

    def __init__(self) -> None:
        self.kept = False

    def begin(self, name: str, _: object) -> Mapping[str, Any]:
        return {"enrolment": name}

    def commit(self, _: str) -> Mapping[str, Any]:
        if self.kept:
            raise RefusedError("there is no enrolment", reason="no_enrolment")
        self.kept = True
        return {"subject": "ab" * 16, "captures": 5}


def console_of(settings: Config, clock: Clock) -> ConsoleSide:
    return ConsoleSide(
        settings,
        load_detector(MANIFEST, "detector-320x240"),
        KeptOnce(),  # type: ignore[arg-type]
        SimpleNamespace(announce=lambda _: None),  # type: ignore[arg-type]
        dark_world(clock),  # type: ignore[arg-type]
        ConsoleDone(advance=lambda: None, log=lambda *_: None, on_problem=lambda _: None),
    )


@pytest.mark.parametrize("code", [digest_of_code("x"), None])
def test_the_first_start_opens_it_where_there_is_a_code_and_no_later_one_does(tmp_path: Path, code: str | None) -> None:
    folder, found = tmp_path / "run", list[bool]()
    folder.mkdir()
    console = f"console: {{address: 127.0.0.1, folder: {folder}, first_boot_code: {code or 'null'}}}"
    settings = config(tmp_path, more=f"keys: {{folder: {folder}}}\n{console}")
    save_private_key(ec.generate_private_key(ec.SECP256R1()), UnitFiles(settings.keys.folder).tls_key)
    for _ in range(2):
        side = console_of(settings, SystemClock())
        side.start()
        found.append(read_opening(folder, SystemClock()) is not None)
        side.stop()
        close(folder)
    assert found == [code is not None, False]


def test_a_receipt_that_came_too_late_is_told_once_more_and_to_nobody_of_a_later_opening(tmp_path: Path) -> None:
    """A card that stalls for seconds: somebody was enrolled, and nobody could hand out the receipt."""
    clock, folder = SystemClock(), tmp_path / "run"
    folder.mkdir()
    side = console_of(config(tmp_path, more=f"console: {{address: 127.0.0.1, folder: {folder}}}"), clock)

    def ask_in(opening: Opening, what: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        write_opening(folder, opening)
        wait_until(lambda: side._desk is not None and side._desk._opening == opening)
        wait_until(socket_of(folder).exists)
        return ask(folder, what, arguments)

    def opened(code: str) -> Opening:
        return make_opening(clock, code=digest_of_code(code), minutes=1, scope="install", by="unit")

    side.start()
    try:
        first = opened("x")
        ask_in(first, "enrol/begin", {"evidence": "sha256:" + "ab" * 32})
        receipt = ask_in(first, "enrol/commit", {})
        assert (receipt["subject"], receipt["site"]) == ("ab" * 16, "hq")
        assert ask_in(first, "enrol/commit", {}) == receipt
        with pytest.raises(RefusedError, match="there is no enrolment"):
            ask_in(opened("y"), "enrol/commit", {})
    finally:
        side.stop()
