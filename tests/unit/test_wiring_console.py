# SPDX-License-Identifier: Apache-2.0
"""What the running unit does for its console, whole: how it opens, what it tells, what stands in the log."""

from __future__ import annotations

import functools
import logging
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from agent.camera.base import Frame, RgbPicture
from agent.clock import SimulatedClock
from agent.config.drawn import as_drawn
from agent.config.schema import Config, ZoneActivation
from agent.console.link import ask
from agent.console.opening import Opening, digest_of_code, make_opening, read_opening, write_opening
from agent.detect.detector import Detector, load_detector
from agent.errors import PosternError, RefusedError, RetryError
from agent.gallery.consent import MAX_CONSENT_DAYS
from agent.keys import save_private_key
from agent.notices.notice import make_notice, notice_id
from agent.protocol.command import Command
from agent.unit.console import ConsoleDone, ConsoleSide
from agent.unit.console_open import console_handlers, open_console
from agent.unit.key_files import KeptFiles, UnitFiles
from tests.simulators.broker import wait_until
from tests.simulators.config import example, parse_config
from tests.simulators.dark_unit import dark_world

ROOT = Path(__file__).parents[2]
CODE = digest_of_code("7K3M-9QTA")
EVIDENCE = "sha256:" + "ab" * 32


@functools.cache
def detector() -> Detector:
    return load_detector(ROOT / "models" / "manifest.yaml", "detector-320x240")


class Session:
    """A running unit's enrolment, as the console asks it; each question stands in ``asked``."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.consents: list[Any] = []
        self.capturing = False
        self.now: tuple[dict[str, Any], tuple[str, str] | None] | None = None
        self.refuses = False

    def begin(self, name: str, consent: object) -> Mapping[str, Any]:
        self.asked.append(("begin", name))
        if self.refuses:
            raise RefusedError("another enrolment is under way")
        self.consents.append(consent)
        return {"enrolment": name}

    def commit(self, name: str) -> Mapping[str, Any]:
        self.asked.append(("commit", name))
        return {"subject": "ab" * 16, "captures": 5}

    def abort(self, name: str) -> Mapping[str, Any]:
        self.asked.append(("abort", name))
        return {"enrolment": name, "state": "aborted"}

    def last(self, name: str) -> tuple[dict[str, Any], tuple[str, str] | None] | None:
        self.asked.append(("last", name))
        return self.now

    def offer(self, *_: object) -> bool:
        return True


class Outputs:
    names = frozenset({"strike", "lamp"})

    def __init__(self) -> None:
        self.pulsed: list[str] = []
        self.works = True

    def pulse(self, name: str) -> bool:
        self.pulsed.append(name)
        return self.works


class Unit:
    """The console's side of a unit, without its thread."""

    def __init__(self, folder: Path, **console: Any) -> None:
        (folder / "run").mkdir()
        data = example()
        data["console"] = {"address": "127.0.0.1", "port": 8443, "folder": str(folder / "run"), **console}
        data["keys"] = {"folder": str(folder / "keys")}
        data["outbox"] = {**data.get("outbox", {}), "path": str(folder / "outbox.db")}
        (folder / "keys").mkdir(mode=0o700)
        self.config: Config = parse_config(yaml.safe_dump(data).encode(), folder / "config.yaml")
        save_private_key(ec.generate_private_key(ec.SECP256R1()), UnitFiles(self.config.keys.folder).tls_key)
        self.clock, self.enrolment, self.outputs = SimulatedClock(), Session(), Outputs()
        self.announced: list[str | None] = []
        self.log: list[tuple[str, Mapping[str, Any]]] = []
        self.problems: list[PosternError] = []
        self.advanced = 0
        self.side = ConsoleSide(
            self.config,
            detector(),
            cast("Any", self.enrolment),
            cast("Any", SimpleNamespace(announce=self.announced.append, outputs=self.outputs)),
            cast("Any", dark_world(self.clock)),
            ConsoleDone(self._advance, lambda *entry: self.log.append(entry), self.problems.append),
        )

    def _advance(self) -> None:
        self.advanced += 1

    def do(self, what: str, arguments: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        return self.side._acts(cast("Any", SimpleNamespace(take=self.take)))[what](arguments or {})

    def take(self, timeout_s: float) -> dict[str, Any] | None:
        assert timeout_s == 2.0
        return self.picture

    picture: dict[str, Any] | None = None


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    return Unit(tmp_path)


def ordered(verb: str, args: dict[str, object]) -> Command:
    about = {"site": "hq", "unit": "door-1", "verb": verb, "transaction": "t"}
    return Command(**about, cmd_seq=1, issued_at=0, expires_at=60, args=args)


def test_an_open_console_says_where_it_is_for_how_long_and_to_whom(unit: Unit) -> None:
    folder, clock = unit.config.console.folder, unit.clock  # type: ignore[union-attr]
    told = open_console(unit.config, clock, code=CODE, scope="aim", by="unit")
    assert told == {
        "address": "https://127.0.0.1:8443/",
        "certificate": told["certificate"],
        "seconds": unit.config.console.minutes * 60,  # type: ignore[union-attr]
        "scope": "aim",
    }
    assert len(told["certificate"].split(":")) == 32, "the fingerprint that a browser shows"
    assert read_opening(folder, clock) == make_opening(
        clock,
        code=CODE,
        minutes=unit.config.console.minutes,
        scope="aim",
        by="unit",  # type: ignore[union-attr]
    )
    shorter = open_console(unit.config, clock, code=CODE, scope="install", by="command", minutes=3)
    assert (shorter["seconds"], shorter["scope"]) == (180, "install")


def test_a_unit_without_a_console_says_what_to_add_and_has_no_verbs_of_one(tmp_path: Path) -> None:
    plain = parse_config(yaml.safe_dump(example()).encode(), tmp_path / "config.yaml")
    with pytest.raises(RefusedError) as refused:
        open_console(plain, SimulatedClock(), code=CODE, scope="aim", by="unit")
    assert str(refused.value) == "this unit has no console: add 'console: {address: …}' to its configuration"
    assert refused.value.reason == "no_console"
    assert console_handlers(plain, SimulatedClock()) == {}


def test_a_command_opens_it_as_text_or_numbers_say_and_another_closes_it(unit: Unit) -> None:
    verbs = console_handlers(unit.config, unit.clock)
    assert set(verbs) == {"console/open", "console/close"}
    told = verbs["console/open"](ordered("console/open", {"code": CODE, "minutes": "5", "scope": "aim"}))
    assert (told["seconds"], told["scope"]) == (300, "aim")
    assert verbs["console/open"](ordered("console/open", {"code": CODE}))["scope"] == "install"
    opened = read_opening(unit.config.console.folder, unit.clock)  # type: ignore[union-attr]
    assert opened is not None
    assert opened.by == "command"
    for args in (
        {},
        {"code": "x"},
        {"code": CODE, "scope": "all"},
        {"code": CODE, "more": 1},
        {"code": CODE, "minutes": "x"},
    ):
        with pytest.raises(RefusedError) as refused:
            verbs["console/open"](ordered("console/open", args))
        assert str(refused.value) == (
            "console/open takes code (a digest, from 'postern console code'), minutes, and scope (aim or install)"
        )
        assert refused.value.reason == "bad_args"
    with pytest.raises(RefusedError, match=r"^console/close takes no arguments$") as refused:
        verbs["console/close"](ordered("console/close", {"x": 1}))
    assert refused.value.reason == "bad_args"
    assert verbs["console/close"](ordered("console/close", {})) == {"console": "closed"}
    assert read_opening(unit.config.console.folder, unit.clock) is None  # type: ignore[union-attr]


def test_who_opened_it_for_how_long_and_that_it_closed_stands_in_both_logs(
    unit: Unit, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        unit.side._notice(make_opening(unit.clock, code=CODE, minutes=2, scope="install", by="command"))
        unit.side._notice(None)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "the console is open for 120 s, install, by command"),
        ("INFO", "the console is closed"),
    ]
    assert unit.log == [
        ("console", {"what": "opened", "by": "command", "scope": "install"}),
        ("console", {"what": "closed"}),
    ]
    assert unit.announced == [None, None], "a display shows no code of an opening before"


def test_the_units_button_opens_it_for_aiming_alone_and_the_display_shows_its_code(unit: Unit) -> None:
    unit.side._press()
    opened = read_opening(unit.config.console.folder, unit.clock)  # type: ignore[union-attr]
    assert opened is not None
    assert (opened.scope, opened.by) == ("aim", "button")
    (shown,) = unit.announced
    assert shown is not None
    address, word, code = shown.split(" ")
    assert (address, word) == ("https://127.0.0.1:8443/", "code")
    assert opened.code == digest_of_code(code)
    unit.side._notice(opened)
    assert unit.announced == [shown], "it stays on the display"
    UnitFiles(unit.config.keys.folder).tls_key.unlink()
    unit.side._press()
    assert len(unit.problems) == 1, "told, and the unit goes on"


def test_a_look_tells_the_picture_the_enrolment_and_the_outputs(unit: Unit) -> None:
    assert unit.do("look") == {
        "waiting": "no picture comes from the camera: see the checks",
        "enrolment": None,
        "outputs": ["lamp", "strike"],
    }
    unit.picture, unit.enrolment.now = {"rgb": "x"}, ({"captures": 2, "advice": "hold still"}, None)
    assert unit.do("look") == {
        "rgb": "x",
        "enrolment": {"captures": 2, "advice": "hold still"},
        "outputs": ["lamp", "strike"],
    }
    unit.enrolment.now = ({"captures": 2}, ("timed_out", "the session is over"))
    assert unit.do("look")["enrolment"] == {"state": "ended", "advice": "the session is over"}
    assert {name for _, name in unit.enrolment.asked} == {"console-0"}


def test_the_notice_is_read_as_it_will_be_signed(unit: Unit) -> None:
    assert unit.do("notice") == {"text": make_notice(unit.config), "days": 365, "most_days": MAX_CONSENT_DAYS}


def test_an_enrolment_is_begun_with_a_consent_on_the_units_terms_and_its_receipt_says_all_of_it(unit: Unit) -> None:
    guardian = EVIDENCE.replace("ab", "cd")
    asked = {"evidence": EVIDENCE, "guardian": guardian, "age_class": "under_14", "days": 10}
    assert unit.do("enrol/begin", asked) == {"enrolment": "console-1"}
    (consent,) = unit.enrolment.consents
    assert (consent.evidence_digest, consent.guardian_evidence_digest) == (EVIDENCE, guardian)
    assert (consent.age_class, consent.expires_at - consent.given_at) == ("under_14", timedelta(days=10))
    receipt = unit.do("enrol/commit")
    today = unit.clock.now().date()
    assert receipt == {
        "subject": "ab" * 16,
        "captures": 5,
        "site": unit.config.unit.site,
        "unit": unit.config.unit.id,
        "purpose": unit.config.purpose,
        "notice_version": notice_id(unit.config).version,
        "evidence": EVIDENCE,
        "given_at": today.isoformat(),
        "expires_at": (today + timedelta(days=10)).isoformat(),
    }
    assert unit.advanced == 1
    assert unit.do("enrol/commit") == receipt, "once more"
    assert unit.advanced == 1
    assert [what for what, _ in unit.enrolment.asked] == ["begin", "commit"]
    assert unit.do("enrol/begin", {"evidence": EVIDENCE}) == {"enrolment": "console-2"}
    assert unit.enrolment.consents[1].expires_at - consent.given_at == timedelta(days=365)
    assert unit.do("enrol/abort") == {"enrolment": "console-2", "state": "aborted"}
    unit.enrolment.refuses = True
    with pytest.raises(RefusedError):
        unit.do("enrol/begin", {"evidence": EVIDENCE})
    unit.do("enrol/abort")
    assert [name for what, name in unit.enrolment.asked if what == "abort"] == ["console-2", "console-2"], (
        "still its own"
    )
    unit.do("enrol/commit")
    unit.side._notice(None)
    unit.do("enrol/commit")
    assert unit.advanced == 3, "the receipt of an opening before is told to nobody"


@pytest.mark.parametrize(
    "asked", [{}, {"evidence": "x"}, {"evidence": EVIDENCE, "age_class": "old"}, {"evidence": EVIDENCE, "x": 1}]
)
def test_a_consent_that_says_too_little_is_refused_with_what_to_choose(unit: Unit, asked: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refused:
        unit.do("enrol/begin", asked)
    assert str(refused.value) == "choose the file that was signed, and how old the person says they are"
    assert unit.enrolment.asked == []


def test_an_output_is_tried_and_written_down_and_no_other_word_switches_one(unit: Unit) -> None:
    assert unit.do("pulse", {"output": "strike"}) == {"output": "strike", "state": "on"}
    assert unit.outputs.pulsed == ["strike"]
    assert unit.log == [("console", {"what": "pulse", "output": "strike"})]
    for asked in ({}, {"output": "door"}, {"output": 1}, {"output": "strike", "more": 1}):
        with pytest.raises(RefusedError, match=r"^this unit has no such output$"):
            unit.do("pulse", asked)
    unit.outputs.works = False
    with pytest.raises(RefusedError) as refused:
        unit.do("pulse", {"output": "lamp"})
    assert str(refused.value) == "lamp could not be switched: look at the wiring, and at the unit's log"
    assert unit.outputs.pulsed == ["strike", "lamp"]


@pytest.mark.parametrize("what", ["look", "notice", "enrol/commit", "enrol/abort"])
def test_what_takes_no_arguments_takes_none(unit: Unit, what: str) -> None:
    with pytest.raises(RefusedError, match=r"^this takes no arguments$"):
        unit.do(what, {"x": 1})


def test_it_is_busy_while_somebody_looks_or_captures_are_taken(unit: Unit) -> None:
    assert not unit.side.busy
    unit.enrolment.capturing = True
    assert unit.side.busy
    unit.enrolment.capturing = False
    assert unit.side._watching is not None
    unit.side._watching.take(0.0)
    assert unit.side.busy


def test_the_first_start_is_remembered_before_it_opens(tmp_path: Path) -> None:
    unit = Unit(tmp_path, first_boot_code=CODE)
    started = list[bool]()
    unit.side._desk.start = lambda: started.append(True)  # type: ignore[method-assign,union-attr]
    unit.side.start()
    opened = read_opening(unit.config.console.folder, unit.clock)  # type: ignore[union-attr]
    assert isinstance(opened, Opening)
    assert (opened.scope, opened.by, opened.code) == ("install", "first_boot", CODE)
    mark = KeptFiles(unit.config.outbox.path).console_opened
    assert mark.read_bytes() == b"the console was opened at the first start\n"
    assert started == [True]


def test_a_zone_that_is_drawn_is_kept_written_down_and_read_again_at_once(unit: Unit) -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: asked.append(number))
    corners = [[200, 200], [800, 200], [800, 800]]
    try:
        assert unit.do("zone", {"corners": corners}) == {}
        with pytest.raises(RefusedError):
            unit.do("zone", {"corners": [[1, 1], [2, 2]]})
    finally:
        signal.signal(signal.SIGHUP, before)
    assert asked == [signal.SIGHUP]
    assert unit.log == [("console", {"what": "zone"})]
    drawn = as_drawn(unit.config)
    assert isinstance(drawn.activation, ZoneActivation)
    assert [[round(1000 * side) for side in corner] for corner in drawn.activation.polygon] == corners


def test_an_open_console_answers_on_its_own_thread_what_the_pipeline_shows_it(unit: Unit) -> None:
    unit.side.start()
    opening = make_opening(unit.clock, code=CODE, minutes=5, scope="aim", by="unit")
    write_opening(Path(unit.config.console.folder), opening)  # type: ignore[union-attr]
    found: list[Mapping[str, Any]] = []

    def look() -> bool:
        with suppress(RetryError):
            found.append(ask(unit.config.console.folder, "look", {}))  # type: ignore[union-attr]
        return bool(found)

    looking = threading.Thread(target=wait_until, args=(look,))
    looking.start()
    grey = RgbPicture(np.full((360, 640, 3), 128, np.uint8))
    small = grey.shrunk((0, 0, 640, 360), (320, 240))
    try:
        wait_until(lambda: unit.side.offer(Frame(0, unit.clock.monotonic_ns(), small, grey), ()) and found)
    finally:
        unit.side.stop()
    looking.join()
    assert found[0]["outputs"] == ["lamp", "strike"]
    assert found[0]["faces"] == []
    assert "waiting" not in found[0]
    assert not unit.side.threads[0].is_alive()
